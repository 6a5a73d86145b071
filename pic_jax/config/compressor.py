"""A compressor: its layout, its encoder's adapter or size."""

import dataclasses
import math
from typing import Any

from pic_jax.config.checks import one_of, require
from pic_jax.config.presets import PRESETS

CONTEXT_SEES = ('causal', 'chunk', 'chunk+memory')
MEMORY_SEES_MEMORY = ('own', 'previous')
MEMORY_EMBEDDINGS = ('per_chunk', 'per_window')
POSITIONS = ('end', 'interleaved', 'spread')
POSITION_ORIGINS = ('window', 'chunk')
WINDOW_SPLITS = ('fixed', 'even')
DECODER_POSITIONS = ('sequential', 'spread')
ENCODER_ATTENTIONS = ('causal', 'bidirectional')
PROJECTORS = ('none', 'linear', 'mlp')
LINEARS = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapter of the encoder: y = xW + (alpha / rank) (xA)B on each linear layer in `targets`."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ('q_proj', 'k_proj', 'v_proj', 'o_proj')

    def __post_init__(self):
        require(self.rank >= 0, 'compressor.lora.rank', self.rank, '0 (no adapter) or a positive number')
        require(math.isfinite(self.alpha), 'compressor.lora.alpha', self.alpha, 'a finite number')
        for name in self.targets:
            one_of('compressor.lora.targets', name, LINEARS)


@dataclasses.dataclass(frozen=True)
class IcformerConfig:
    """Size of an IC-Former, which is as wide as its target. 0: as in the target.

    Attributes:
      layers: cross-attention layers. heads: of queries, keys and values alike. head_dim: of each.
      intermediate_size: of the MLPs.
    """

    layers: int = 3
    heads: int = 0
    head_dim: int = 0
    intermediate_size: int = 0

    def __post_init__(self):
        require(self.layers >= 1, 'compressor.icformer.layers', self.layers, 'a positive number')
        for name in ('heads', 'head_dim', 'intermediate_size'):
            value = getattr(self, name)
            require(value >= 0, f'compressor.icformer.{name}', value, "0 (the target's) or a positive number")
        require(self.head_dim % 2 == 0, 'compressor.icformer.head_dim', self.head_dim, 'an even number')


@dataclasses.dataclass(frozen=True)
class CompressorConfig:
    """What a memory position sees, where it stands and how it is trained. Make one with `preset`.

    Attributes:
      method: icae, epl, pic and kv500x share an encoder, which the fields below define; the others have their own.
      ratio: r, context tokens per memory vector.
      ratios: nested (Matryoshka-style) training: all ratios that one compressor serves, ascending from `ratio`; each
        step draws one, and ratio r' uses the first c / r' vectors of each chunk. Empty: `ratio` alone.
      context_length: the longest window (in tokens) that `per_window` embeddings are made for.
      chunk_size: c, tokens per chunk, a multiple of r; None makes the whole window one chunk.
      context_sees: `causal` | `chunk` | `chunk+memory` (own chunk and the memory of earlier chunks).
      memory_sees_memory: `own` block (causal) | own and all `previous` blocks.
      memory_embeddings: learned vectors `per_chunk` (reused by every chunk) | `per_window` (one per slot).
      positions: memory position ids: at the `end` | `interleaved` | `spread` over the chunk.
      position_origin: ids count from the start of the `window` | of each `chunk`.
      window: tokens per independent window, or None.
      window_split: `fixed` windows of that size | `even` parts no longer than it.
      decoder_positions: `sequential` ids in the decoder | `spread`: the memory's ids in the context.
      encoder_attention: mean_pool's: `causal` | `bidirectional` between the tokens of a context or chunk.
      projector: map from the encoder's output to the decoder's input: none | linear | mlp.
      lora: adapter of the methods whose encoder is the target. icformer: size of icformer's own encoder.
    """

    method: str
    ratio: int
    context_length: int
    chunk_size: int | None
    context_sees: str
    memory_sees_memory: str
    memory_embeddings: str
    positions: str
    position_origin: str
    encoder_attention: str
    ratios: tuple[int, ...] = ()
    window: int | None = None
    window_split: str = 'fixed'
    decoder_positions: str = 'sequential'
    projector: str = 'none'
    lora: LoraConfig = LoraConfig()
    icformer: IcformerConfig = IcformerConfig()

    @classmethod
    def preset(cls, method: str, **options: Any) -> 'CompressorConfig':
        """The named preset with `options` on top; an option given as None keeps the preset's value."""
        one_of('compressor.method', method, tuple(PRESETS))
        given = {key: value for key, value in options.items() if value is not None}
        defaults: dict[str, Any] = {'method': method, 'ratio': 8, 'context_length': 512}
        return cls(**(defaults | PRESETS[method] | given))

    def __post_init__(self):
        one_of('compressor.method', self.method, tuple(PRESETS))
        require(self.ratio >= 1, 'compressor.ratio', self.ratio, 'a positive number')
        require(self.context_length >= 1, 'compressor.context_length', self.context_length, 'a positive number')
        one_of('compressor.context_sees', self.context_sees, CONTEXT_SEES)
        one_of('compressor.memory_sees_memory', self.memory_sees_memory, MEMORY_SEES_MEMORY)
        one_of('compressor.memory_embeddings', self.memory_embeddings, MEMORY_EMBEDDINGS)
        one_of('compressor.positions', self.positions, POSITIONS)
        one_of('compressor.position_origin', self.position_origin, POSITION_ORIGINS)
        one_of('compressor.window_split', self.window_split, WINDOW_SPLITS)
        one_of('compressor.decoder_positions', self.decoder_positions, DECODER_POSITIONS)
        one_of('compressor.encoder_attention', self.encoder_attention, ENCODER_ATTENTIONS)
        one_of('compressor.projector', self.projector, PROJECTORS)
        self._check_method()
        if self.window is not None:
            require(self.window >= 1, 'compressor.window', self.window, 'a positive number or none')
        if self.chunk_size is None:
            require(
                self.positions != 'interleaved', 'compressor.positions', self.positions,
                'end or spread where the window is one chunk',
            )  # fmt: skip
        else:
            require(
                self.chunk_size >= self.ratio and self.chunk_size % self.ratio == 0,
                'compressor.chunk_size', self.chunk_size, f'a multiple of compressor.ratio={self.ratio}',
            )  # fmt: skip
        self._check_ratios()
        if self.position_origin == 'chunk':
            require(
                self.chunk_local, 'compressor.position_origin', 'chunk',
                'window, unless context_sees=chunk and memory_sees_memory=own',
            )  # fmt: skip
        if self.decoder_positions == 'spread':
            require(
                self.positions == 'spread', 'compressor.decoder_positions', 'spread',
                f'sequential where compressor.positions={self.positions}',
            )  # fmt: skip

    def _check_method(self) -> None:
        """Refuses options of the Layout that mean nothing to the method."""
        method = self.method

        def only(name: str, *valid: Any, why: str) -> None:
            value = getattr(self, name)
            shown = 'none' if valid == (None,) else ' or '.join(valid)
            require(value in valid, f'compressor.{name}', value, f'{shown}: {why}')

        if method in ('icae', 'epl', 'constant_memory'):
            only('chunk_size', None, why=f'{method} sees the whole window (method pic has chunks)')
        if method == 'constant_memory':
            only('window', None, why='constant_memory sees no context')
        if method == 'kv500x':
            only('projector', 'none', why='kv500x gives keys and values, not vectors')
        if method == 'icformer':
            only('context_sees', 'causal', why='icformer encodes no context')
        if method == 'mean_pool':
            only('context_sees', 'causal', 'chunk', why='mean_pool has no memory tokens')
            only('memory_sees_memory', 'own', why='mean_pool has no memory tokens')
            only('positions', 'spread', why='mean_pool has no memory tokens')
        else:
            only('encoder_attention', 'causal', why=f'the context of {method} is not read in both directions')
        if method == 'pic':
            require(self.chunk_size is not None, 'compressor.chunk_size', None, 'a number (method icae has no chunks)')

    def _check_ratios(self) -> None:
        ratios, valid = self.ratios, f'none, or ascending numbers that begin with compressor.ratio={self.ratio}'
        ascending = list(ratios) == sorted(set(ratios))
        require(not ratios or (ascending and ratios[0] == self.ratio), 'compressor.ratios', ratios, valid)
        if self.chunk_size is not None:
            fit = all(self.chunk_size % ratio == 0 for ratio in ratios)
            require(fit, 'compressor.ratios', ratios, f'divisors of compressor.chunk_size={self.chunk_size}')

    @property
    def chunk_local(self) -> bool:
        """True where nothing crosses a chunk: chunks are independent and growth is linear."""
        reads_chunks = self.context_sees == 'chunk' or (self.method == 'icformer' and self.chunk_size is not None)
        return reads_chunks and self.memory_sees_memory == 'own'
