"""All settings as frozen dataclasses.

Configuration files build an `ml_collections.ConfigDict` (`default_config()`); the command line turns it
at once into a `RunConfig` (`from_mapping`), and nothing behind that edge sees a ConfigDict. Every check
names the key, the value and what would be valid. This module imports no jax.
"""

import dataclasses
import difflib
import itertools
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.errors import ConfigError

CONTEXT_SEES = ('causal', 'chunk', 'chunk+memory')
MEMORY_SEES_MEMORY = ('own', 'previous')
MEMORY_EMBEDDINGS = ('per_chunk', 'per_window')
POSITIONS = ('end', 'interleaved', 'spread')
POSITION_ORIGINS = ('window', 'chunk')
WINDOW_SPLITS = ('fixed', 'even')
DECODER_POSITIONS = ('sequential', 'spread')
ENCODER_ATTENTIONS = ('causal', 'bidirectional')
PROJECTORS = ('none', 'linear', 'mlp')
DTYPES = ('float32', 'bfloat16')
REMATS = ('none', 'dots', 'full')
ATTENTIONS = ('auto', 'dense', 'structured', 'splash')
OPTIMIZERS = ('adamw', 'muon')
SCHEDULES = ('constant', 'cosine')
TEMPLATES = ('plain', 'llama2-chat', 'chat', 'none')
LINEARS = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')


def _require(condition: bool, key: str, value: Any, valid: str) -> None:
    if not condition:
        raise ConfigError(f'{key}={value!r} is not valid: expected {valid}')


def _one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    _require(value in valid, key, value, 'one of ' + ', '.join(valid))


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. `llama3` rescales low frequencies as Llama 3.1 does (all five fields used)."""

    theta: float = 10000.0
    type: str = 'default'
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a Llama-family decoder. Field names follow the HF config; letters are this project's.

    Attributes:
      attention_bias: of all four projections; qkv_bias: of queries, keys and values only (Qwen2).
      qk_norm: queries and keys are normalised, head by head, before RoPE (Qwen3).
      model_type: transformers' name of the family, which decides nothing that the other fields do not say.
    """

    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int  # F
    num_hidden_layers: int  # L
    num_attention_heads: int  # N
    num_key_value_heads: int  # K, divides N
    head_dim: int  # H, need not be D / N
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    mlp_bias: bool = False
    model_type: str = 'llama'
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self):
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        _require(kv_heads > 0 and heads % kv_heads == 0, 'num_key_value_heads', kv_heads, f'a divisor of {heads}')
        _require(self.head_dim % 2 == 0, 'head_dim', self.head_dim, 'an even number')
        _one_of('rope.type', self.rope.type, ('default', 'llama3'))


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapter of the encoder: y = xW + (alpha / rank) (xA)B on each linear layer in `targets`."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ('q_proj', 'k_proj', 'v_proj', 'o_proj')

    def __post_init__(self):
        _require(self.rank >= 0, 'compressor.lora.rank', self.rank, '0 (no adapter) or a positive number')
        _require(math.isfinite(self.alpha), 'compressor.lora.alpha', self.alpha, 'a finite number')
        for name in self.targets:
            _one_of('compressor.lora.targets', name, LINEARS)


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
        _require(self.layers >= 1, 'compressor.icformer.layers', self.layers, 'a positive number')
        for name in ('heads', 'head_dim', 'intermediate_size'):
            value = getattr(self, name)
            _require(value >= 0, f'compressor.icformer.{name}', value, "0 (the target's) or a positive number")
        _require(self.head_dim % 2 == 0, 'compressor.icformer.head_dim', self.head_dim, 'an even number')


_WHOLE_WINDOW = dict(
    chunk_size=None, context_sees='causal', memory_sees_memory='own', memory_embeddings='per_window',
    positions='end', position_origin='window', encoder_attention='causal',
)  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    'icae': _WHOLE_WINDOW,
    'epl': _WHOLE_WINDOW | dict(positions='spread'),
    'pic': dict(
        chunk_size=64, context_sees='chunk', memory_sees_memory='own', memory_embeddings='per_chunk',
        positions='spread', position_origin='window', encoder_attention='causal',
    ),
    'kv500x': _WHOLE_WINDOW,
    'icformer': _WHOLE_WINDOW,
    'mean_pool': _WHOLE_WINDOW | dict(positions='spread'),
    'constant_memory': _WHOLE_WINDOW,
}  # fmt: skip
PRESET_OPTIONS = tuple(PRESETS['pic'])


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
        _one_of('compressor.method', method, tuple(PRESETS))
        given = {key: value for key, value in options.items() if value is not None}
        return cls(**({'method': method, 'ratio': 8, 'context_length': 512} | PRESETS[method] | given))

    def __post_init__(self):
        _one_of('compressor.method', self.method, tuple(PRESETS))
        _require(self.ratio >= 1, 'compressor.ratio', self.ratio, 'a positive number')
        _require(self.context_length >= 1, 'compressor.context_length', self.context_length, 'a positive number')
        _one_of('compressor.context_sees', self.context_sees, CONTEXT_SEES)
        _one_of('compressor.memory_sees_memory', self.memory_sees_memory, MEMORY_SEES_MEMORY)
        _one_of('compressor.memory_embeddings', self.memory_embeddings, MEMORY_EMBEDDINGS)
        _one_of('compressor.positions', self.positions, POSITIONS)
        _one_of('compressor.position_origin', self.position_origin, POSITION_ORIGINS)
        _one_of('compressor.window_split', self.window_split, WINDOW_SPLITS)
        _one_of('compressor.decoder_positions', self.decoder_positions, DECODER_POSITIONS)
        _one_of('compressor.encoder_attention', self.encoder_attention, ENCODER_ATTENTIONS)
        _one_of('compressor.projector', self.projector, PROJECTORS)
        self._check_method()
        if self.window is not None:
            _require(self.window >= 1, 'compressor.window', self.window, 'a positive number or none')
        if self.chunk_size is None:
            _require(
                self.positions != 'interleaved', 'compressor.positions', self.positions,
                'end or spread where the window is one chunk',
            )  # fmt: skip
        else:
            _require(
                self.chunk_size >= self.ratio and self.chunk_size % self.ratio == 0,
                'compressor.chunk_size', self.chunk_size, f'a multiple of compressor.ratio={self.ratio}',
            )  # fmt: skip
        self._check_ratios()
        if self.position_origin == 'chunk':
            _require(
                self.chunk_local, 'compressor.position_origin', 'chunk',
                'window, unless context_sees=chunk and memory_sees_memory=own',
            )  # fmt: skip
        if self.decoder_positions == 'spread':
            _require(
                self.positions == 'spread', 'compressor.decoder_positions', 'spread',
                f'sequential where compressor.positions={self.positions}',
            )  # fmt: skip

    def _check_method(self) -> None:
        """Refuses options of the Layout that mean nothing to the method."""
        method = self.method

        def only(name: str, *valid: Any, why: str) -> None:
            value = getattr(self, name)
            shown = 'none' if valid == (None,) else ' or '.join(valid)
            _require(value in valid, f'compressor.{name}', value, f'{shown}: {why}')

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
            _require(self.chunk_size is not None, 'compressor.chunk_size', None, 'a number (method icae has no chunks)')

    def _check_ratios(self) -> None:
        ratios, valid = self.ratios, f'none, or ascending numbers that begin with compressor.ratio={self.ratio}'
        ascending = list(ratios) == sorted(set(ratios))
        _require(not ratios or (ascending and ratios[0] == self.ratio), 'compressor.ratios', ratios, valid)
        if self.chunk_size is not None:
            fit = all(self.chunk_size % ratio == 0 for ratio in ratios)
            _require(fit, 'compressor.ratios', ratios, f'divisors of compressor.chunk_size={self.chunk_size}')

    @property
    def chunk_local(self) -> bool:
        """True where nothing crosses a chunk: chunks are independent and growth is linear."""
        reads_chunks = self.context_sees == 'chunk' or (self.method == 'icformer' and self.chunk_size is not None)
        return reads_chunks and self.memory_sees_memory == 'own'


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What a generated document is like (data/generator.py).

    Attributes:
      facts_per_context: facts told in a document; at least 5 people share every attribute.
      words: documents are filled up with sentences about nothing to at most this many words.
      questions: questions per document at the most.
      ledgers: share of fact documents that are lists of short entries instead of stories.
      word_lists: share of documents that are labelled examples (in-context learning) instead of facts.
    """

    facts_per_context: int = 12
    words: int = 190
    questions: int = 4
    ledgers: float = 0.25
    word_lists: float = 0.0

    def __post_init__(self):
        _require(self.facts_per_context >= 5, 'corpus.facts_per_context', self.facts_per_context, 'at least 5')
        for name in ('words', 'questions'):
            _require(getattr(self, name) >= 1, f'corpus.{name}', getattr(self, name), 'a positive number')
        for name in ('ledgers', 'word_lists'):
            _require(0 <= getattr(self, name) <= 1, f'corpus.{name}', getattr(self, name), 'a share from 0 to 1')


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and their shapes.

    Attributes:
      source: a .jsonl, .txt/.md or SQuAD-format .json file, `hub:owner/name[:config[:split]]`, `arrayrecord:folder` as
        `pic-jax tokenize` makes it, or `generated`.
      validation, test: how many groups are held out, counted from the end of the source: test is the last,
        validation the ones before it. A group is a document, or all questions of one article or context. For
        `generated`, how many documents of these splits are made.
      context_length: tokens of context an example has at the most.
      target_length: tokens of continuation (text sources).
      answer_length: tokens of prompt and answer together at the most (question sources).
      questions_per_example: training asks up to that many questions on one compressed context, one after the other,
        as far as answer_length reaches; scoring always asks one.
      min_context: documents that leave less context than this are left out.
      random_start: training windows start anywhere in a document instead of at its beginning.
      buckets: context lengths that batches are padded to, ascending; empty means (context_length,).
      size, seed: how many documents to train on `generated` makes, and from which seed (the run's own seed orders
        them). corpus: what they are like.
    """

    source: str = 'generated'
    validation: int = 100
    test: int = 200
    context_length: int = 192
    target_length: int = 64
    answer_length: int = 64
    questions_per_example: int = 1
    min_context: int = 32
    random_start: bool = True
    buckets: tuple[int, ...] = ()
    size: int = 2000
    seed: int = 0
    corpus: CorpusConfig = CorpusConfig()

    def __post_init__(self):
        for name in ('context_length', 'target_length', 'answer_length', 'questions_per_example', 'size'):
            _require(getattr(self, name) >= 1, f'data.{name}', getattr(self, name), 'a positive number')
        _require(self.validation >= 1, 'data.validation', self.validation, 'a positive number')
        for name in ('test', 'seed'):
            _require(getattr(self, name) >= 0, f'data.{name}', getattr(self, name), 'at least 0')
        _require(
            1 <= self.min_context <= self.context_length, 'data.min_context', self.min_context,
            f'1 to data.context_length={self.context_length}',
        )  # fmt: skip
        if self.buckets:
            _require(
                list(self.buckets) == sorted(set(self.buckets)) and self.buckets[0] > 0
                and self.buckets[-1] == self.context_length,
                'data.buckets', self.buckets, f'ascending lengths ending in data.context_length={self.context_length}',
            )  # fmt: skip

    def text_length(self, objective: str, context_length: int | None = None) -> int:
        """Tokens of text that batches reserve for an objective behind contexts of that (default: the full) length."""
        context_length = self.context_length if context_length is None else context_length
        return {'ae': context_length + 1, 'lm': self.target_length, 'ft': self.answer_length}[objective]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses; 0 leaves one out.

    Attributes:
      ae: autoencoding, the context itself after the [AE] vector.
      lm: the continuation after the [LM] vector.
      ft: the answer after the [FT] vector and the prompt.
      distill: KL divergence to the same frozen model reading the full context, on the targets of lm and ft.
      words: squared distance of every memory vector to a mixture of the word embeddings of its own tokens. Alone it
        is a cheap first stage: the decoder reads no memory.
    """

    ae: float = 0.0
    lm: float = 1.0
    ft: float = 0.0
    distill: float = 0.0
    words: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            weight = getattr(self, field.name)
            _require(0 <= weight < math.inf, f'objective.{field.name}', weight, 'a finite weight of at least 0')
        _require(
            bool(self.names or self.words), 'objective', self.names, 'a positive weight for one of ae, lm, ft, words'
        )
        if self.distill:
            _require(self.lm + self.ft > 0, 'objective.distill', self.distill, '0 unless lm or ft has a weight')

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives that have targets of their own, in a fixed order."""
        return tuple(name for name in ('ae', 'lm', 'ft') if getattr(self, name) > 0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Global-norm clipping, then `adamw`, or `muon` for the layers' matrices: kernels, or an adapter's factors.

    The learning rate warms up linearly, then stays or decays to 0.
    """

    name: str = 'adamw'
    learning_rate: float = 1e-3
    schedule: str = 'cosine'
    warmup_steps: int = 20
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    clip_norm: float = 1.0

    def __post_init__(self):
        _one_of('optimizer.name', self.name, OPTIMIZERS)
        _one_of('optimizer.schedule', self.schedule, SCHEDULES)
        for name in ('learning_rate', 'clip_norm'):
            value = getattr(self, name)
            _require(0 < value < math.inf, f'optimizer.{name}', value, 'a finite positive number')
        for name in ('warmup_steps', 'weight_decay'):
            _require(
                0 <= getattr(self, name) < math.inf, f'optimizer.{name}', getattr(self, name), 'at least 0, finite'
            )
        for name in ('b1', 'b2'):
            _require(0 <= getattr(self, name) < 1, f'optimizer.{name}', getattr(self, name), '0 to below 1')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop. A step is one optimizer update over `batch_size` examples in `microbatches` equal parts.

    Attributes:
      log_every, eval_every, checkpoint_every: in steps. eval_examples: of a validation.
      keep_checkpoints: how many of the newest are kept. best_metric: a field of the validation records; the checkpoint
        that is best by it is kept besides ('' for none).
      stall_timeout_s: seconds after which a step that does not end counts as a host that is gone.
      max_skipped_steps: how many updates of a run may be left out because loss or gradient are not finite; one more
        ends it.
    """

    steps: int = 300
    batch_size: int = 16
    microbatches: int = 1
    log_every: int = 10
    eval_every: int = 100
    eval_examples: int = 64
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    best_metric: str = 'loss'
    stall_timeout_s: int = 1800
    max_skipped_steps: int = 0

    def __post_init__(self):
        _require(self.max_skipped_steps >= 0, 'train.max_skipped_steps', self.max_skipped_steps, 'at least 0')
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ('best_metric', 'max_skipped_steps'):
                _require(value >= 1, f'train.{field.name}', value, 'a positive number')
        _require(
            self.batch_size % self.microbatches == 0, 'train.microbatches', self.microbatches,
            f'a divisor of train.batch_size={self.batch_size}',
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices share the work; the sizes multiply to their number, and one of them may be -1, the rest.

    Attributes:
      data: copies of everything, each with its own rows of a batch.
      fsdp: rows of a batch too, but parameters and optimizer state are split and gathered layer by layer.
      tensor: heads, the inner dimension of MLPs and the vocabulary are split.
      context: chunks or windows of one context; only for layouts where nothing crosses them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            _require(size >= 1 or size == -1, f'mesh.{name}', size, 'a positive number, or -1 for the rest')
        free = [name for name, size in sizes.items() if size == -1]
        _require(len(free) <= 1, f'mesh.{(free or [""])[-1]}', -1, f'a positive number, as mesh.{(free or [""])[0]}=-1')


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run, whole. Written to the workdir as config.json, the only thing restore and export read.

    Attributes:
      seed: of initialisation, data order and sampling.
      start: workdir of a run whose compressor this one goes on training (pretraining, then fine-tuning); ''
        is fresh.
      base: folder of the frozen target in HF format (`$NAME` at its start is an environment variable),
        `hub:owner/name[@revision]`, or `tiny_base`, the small model in the package.
      dtype: compute dtype; trained parameters and optimizer state stay float32.
      remat: what the backward pass computes again, layer by layer: `none` | `dots` (all but products with matrices) |
        `full` (all but the layer's input). Less memory, more time, in this order.
      attention: how it is computed, which changes no result: `dense` (a boolean array) | `structured` (in blocks) |
        `splash` (JAX's TPU kernel) | `auto`, the fastest for the devices and lengths.
      decoder_prefix: token ids that stand before the memory (and before every control's text); None means
        the target's BOS, where it has one.
      prompt_template: plain | llama2-chat | chat (the tokenizer's own template) | none.
      mesh: how devices share the work.
    """

    base: str = ''
    start: str = ''
    seed: int = 0
    dtype: str = 'float32'
    remat: str = 'none'
    attention: str = 'auto'
    decoder_prefix: tuple[int, ...] | None = None
    prompt_template: str = 'plain'
    compressor: CompressorConfig = dataclasses.field(default_factory=lambda: CompressorConfig.preset('pic'))
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        _require(0 <= self.seed < 2**32, 'seed', self.seed, f'0 to {2**32 - 1}')
        _one_of('dtype', self.dtype, DTYPES)
        _one_of('remat', self.remat, REMATS)
        _one_of('attention', self.attention, ATTENTIONS)
        _one_of('prompt_template', self.prompt_template, TEMPLATES)
        compressor = self.compressor
        if self.objective.words:
            _require(compressor.method != 'kv500x', 'objective.words', self.objective.words,
                     '0 for compressor.method=kv500x, which gives keys and values, not vectors')  # fmt: skip
        if self.objective.words and compressor.window is not None:
            # Slot j of the targets is tokens j r .. (j + 1) r - 1, also where a window starts.
            fits = compressor.window % compressor.ratio == 0 and compressor.window_split == 'fixed'
            valid = f"a multiple of compressor.ratio={compressor.ratio} with window_split='fixed' for objective.words"
            _require(fits, 'compressor.window', compressor.window, valid)


@dataclasses.dataclass(frozen=True)
class RowsConfig:
    """What a pretraining step reads, in rows of each kind, and how the losses on them are weighted.

    Attributes:
      documents: rows of a document, then its questions with answers. repeats: a document, a marker, the document
        again. mixtures: a document repeated from mixtures of its word embeddings in the context's place; notes:
        questions answered from mixtures in which what tells a fact shares a vector and stands out.
      row_length: tokens of a document or repeat row. text_length: tokens behind the mixtures.
      mixture_slots: vectors a mixed context may take; mixture_ratios: tokens per vector, drawn per row.
      copies: rows of `copy_length` random tokens, repeated with a period of 2 to `copy_period`.
      text, answer, repeat, mixture, copy: loss weights of document and question tokens, answers, the second time of a
        document, targets behind mixtures, and repeated tokens.
    """

    documents: int = 0
    repeats: int = 0
    row_length: int = 512
    mixtures: int = 0
    notes: int = 0
    mixture_slots: int = 128
    mixture_ratios: tuple[int, ...] = (2, 4, 8, 16)
    text_length: int = 224
    copies: int = 0
    copy_length: int = 128
    copy_period: int = 64
    text: float = 1.0
    answer: float = 1.0
    repeat: float = 1.0
    mixture: float = 1.0
    copy: float = 1.0

    def __post_init__(self):
        kinds = ('documents', 'repeats', 'mixtures', 'notes', 'copies')
        for name in kinds:
            _require(getattr(self, name) >= 0, f'rows.{name}', getattr(self, name), 'at least 0')
        _require(any(getattr(self, name) for name in kinds), 'rows', 0, f'rows of at least one of {", ".join(kinds)}')
        _require(2 <= self.copy_period <= self.copy_length // 2, 'rows.copy_period', self.copy_period,
                 f'2 to half of rows.copy_length={self.copy_length}')  # fmt: skip
        for name in ('text', 'answer', 'repeat', 'mixture', 'copy'):
            _require(
                0 <= getattr(self, name) < math.inf, f'rows.{name}', getattr(self, name),
                'a finite weight of at least 0',
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """One stage of training a small target model on the generated corpus: language, copying, reading.

    Attributes:
      start: folder of the model (HF format, with tokenizer) that the stage goes on from; '' starts from scratch with
        the shape below, and with a byte-level BPE tokenizer of `vocab_size` that is trained on the corpus first.
      hidden_size .. max_position_embeddings: shape of the decoder (heads of hidden_size / num_attention_heads).
      bar: a field of the validation records and what it must reach for the next stage to make sense; '' is no bar.
    """

    seed: int = 0
    start: str = ''
    vocab_size: int = 2048
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 2048
    corpus: CorpusConfig = CorpusConfig()
    rows: RowsConfig = RowsConfig(documents=6, copies=16)
    bar: str = ''
    bar_value: float = 0.0
    optimizer: OptimizerConfig = OptimizerConfig(warmup_steps=10, weight_decay=0.01)
    train: TrainConfig = TrainConfig(steps=400, batch_size=1, eval_every=100, checkpoint_every=100)

    def __post_init__(self):
        for name in ('vocab_size', 'num_hidden_layers', 'num_attention_heads', 'max_position_embeddings'):
            _require(getattr(self, name) >= 1, name, getattr(self, name), 'a positive number')
        _require(
            self.hidden_size % self.num_attention_heads == 0, 'num_attention_heads', self.num_attention_heads,
            f'a divisor of hidden_size={self.hidden_size}',
        )  # fmt: skip
        _require(self.train.microbatches == 1, 'train.microbatches', self.train.microbatches, '1 in pretraining')
        rows, longest = self.rows, self.max_position_embeddings
        for name in ('row_length', 'copy_length'):
            _require(
                getattr(rows, name) <= longest, f'rows.{name}', getattr(rows, name),
                f'at most max_position_embeddings={longest}',
            )  # fmt: skip

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's shape; ids 0 and 1 are <s> and </s>."""
        return DecoderConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_ids=(1,),
        )


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = '') -> Any:
    """Builds dataclass `cls` from nested mappings (`ConfigDict.to_dict()` or parsed JSON).

    Raises:
      ConfigError: an unknown key (with the nearest valid one), a value of the wrong type, or one that
        the dataclass refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {}
    if cls is RunConfig and isinstance(values.get('remat'), bool):  # of files written before policies had names
        values = {**values, 'remat': 'full' if values['remat'] else 'none'}
    for key, value in values.items():
        if not isinstance(key, str) or key not in hints:
            raise ConfigError(unknown_key(f'{prefix}{key}', str(key), tuple(hints)))
        fields[key] = _convert(hints[key], value, prefix + key)
    if cls is CompressorConfig:
        return CompressorConfig.preset(fields.pop('method', 'pic'), **fields)
    try:
        return cls(**fields)
    except TypeError as error:
        raise ConfigError(f'{prefix or cls.__name__}: {error}') from error


def unknown_key(path: str, key: str, valid: tuple[str, ...]) -> str:
    """The message for a key that does not exist: the nearest valid one, or all of them."""
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f'did you mean {path[: len(path) - len(key)]}{near[0]}?' if near else f'valid here: {", ".join(valid)}'
    return f'unknown config key {path}: {hint}'


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type: nested dataclass, tuple, optional or scalar."""
    if dataclasses.is_dataclass(hint):
        _require(isinstance(value, Mapping), path, value, 'a group of settings')
        return from_mapping(hint, value, path + '.')
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return _convert(hint, value, path)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        _require(isinstance(value, list | tuple), path, value, f'a list of {item.__name__}')
        return tuple(_convert(item, element, path) for element in value)
    if value is None:
        # A compressor option left at None takes its preset's value (CompressorConfig.preset).
        group, _, option = path.partition('.')
        _require(group == 'compressor' and '.' not in option, path, value, hint.__name__)
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _require(abs(value) <= sys.float_info.max, path, value, 'a finite float')
        return float(value)
    _require(isinstance(value, hint) and isinstance(value, bool) == (hint is bool), path, value, hint.__name__)
    return value


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dicts; `from_mapping` of the result (or of its JSON) gives it back."""
    return dataclasses.asdict(config)


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values of dotted keys, the last key fastest: rows for `get_sweep()` of a sweep's file."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def default_pretrain_config() -> Any:
    """A ConfigDict of every `PretrainConfig` key at its default."""
    from ml_collections import ConfigDict

    return ConfigDict(to_mapping(PretrainConfig()))


def default_config() -> Any:
    """A ConfigDict of every `RunConfig` key at its default, for `get_config()` in a configuration file.

    Options that a compressor preset decides are None until a file or the command line sets them.
    """
    from ml_collections import ConfigDict, config_dict

    values = to_mapping(RunConfig()) | {'decoder_prefix': config_dict.placeholder(tuple)}
    hints = typing.get_type_hints(CompressorConfig)
    for key in (*PRESET_OPTIONS, 'window'):
        hint = hints[key]
        scalar = hint if isinstance(hint, type) else next(a for a in typing.get_args(hint) if a is not type(None))
        values['compressor'][key] = config_dict.placeholder(scalar)
    return ConfigDict(values)
