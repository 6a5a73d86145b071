"""Layout: what stands where in the encoder's sequence, and who sees whom.

The encoder reads [context tokens][memory slots]; chunks are a matter of the mask and the position ids,
never of the storage order. A `Layout` holds numpy arrays with one entry per position; every form of the mask
derives from one predicate, `sees`. This module imports no jax, but its methods also take traced arrays.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from pic_jax.budget import spread_position, window_length
from pic_jax.config import CompressorConfig
from pic_jax.errors import ConfigError

CONTEXT, MEMORY = 0, 1


class Cells(NamedTuple):
    """Int arrays of one shape that say what stands at each position.

    kind: CONTEXT or MEMORY. chunk: number of its chunk. index: its place among its kind in the chunk.
    source: context tokens: their place in the window; memory slots: the first token of their group of r.
    """

    kind: Any
    chunk: Any
    index: Any
    source: Any

    def __getitem__(self, item: Any) -> 'Cells':
        return Cells(*(field[item] for field in tuple(self)))


def sees(config: CompressorConfig, query: Cells, key: Cells) -> Any:
    """Whether each query may attend to each key: the one rule behind every mask.

    Args:
      config: the options `context_sees` and `memory_sees_memory`.
      query, key: cells whose shapes broadcast, for example [T, 1] and [1, S].

    Returns:
      bool array of the broadcast shape.
    """
    same_chunk = query.chunk == key.chunk
    earlier_chunk = key.chunk < query.chunk
    query_is_memory, key_is_memory = query.kind == MEMORY, key.kind == MEMORY

    context_context = (key.source <= query.source) | (config.encoder_attention == 'bidirectional')
    if config.context_sees != 'causal':
        context_context = context_context & same_chunk
    context_memory = earlier_chunk if config.context_sees == 'chunk+memory' else earlier_chunk & False
    memory_memory = same_chunk & (key.index <= query.index)
    if config.memory_sees_memory == 'previous':
        memory_memory = memory_memory | earlier_chunk

    encodes_context = config.method != 'icformer'
    from_context = ((~key_is_memory & context_context) | (key_is_memory & context_memory)) & encodes_context
    from_memory = (~key_is_memory & same_chunk) | (key_is_memory & memory_memory)
    if config.method == 'mean_pool':  # nothing reads memory, and memory is its own group
        from_memory = ~key_is_memory & (key.source >= query.source) & (key.source < query.source + config.ratio)
    return (~query_is_memory & from_context) | (query_is_memory & from_memory)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """One window of `num_tokens` context tokens followed by its `num_slots` memory slots (S = both).

    Attributes:
      cells: [S] each.
      position: [S] position ids; for slots at the `end`, counted from the true length of their span.
      span_start, span_size: [S] the tokens whose number is added to `position` (size 0: none).
    """

    config: CompressorConfig
    num_tokens: int
    num_slots: int
    cells: Cells
    position: np.ndarray
    span_start: np.ndarray
    span_size: np.ndarray

    @property
    def kind(self) -> np.ndarray:
        return self.cells.kind

    @property
    def chunk(self) -> np.ndarray:
        return self.cells.chunk

    @property
    def embedding_index(self) -> np.ndarray:
        """[num_slots] which learned vector each slot starts from."""
        if self.config.memory_embeddings == 'per_chunk':
            return self.cells.index[self.num_tokens :]
        return np.arange(self.num_slots)

    def dense_mask(self, queries: Any = slice(None), keys: Any = slice(None)) -> np.ndarray:
        """[S, S] bool, True where the row may attend to the column; or some rows and columns (slices, indices)."""
        return sees(self.config, self.cells[queries, None], self.cells[None, keys])

    def valid(self, lengths_B: Any) -> Any:
        """[B, S] bool: real tokens, and the slots that a window of that true length pays for."""
        return is_valid(self.cells.source[None], lengths_B[:, None])

    def positions(self, lengths_B: Any) -> Any:
        """[B, S] position ids of windows with these true lengths."""
        places = self.position[None], self.span_start[None], self.span_size[None]
        return position_ids(*places, lengths_B[:, None])

    @property
    def num_positions(self) -> int:
        """How many position ids a full window uses."""
        return int(self.positions(np.array([self.num_tokens])).max()) + 1


def is_valid(source: Any, lengths: Any) -> Any:
    """Whether a window of that true length has each token, or pays for each slot (`Cells.source`; shapes broadcast)."""
    return source < lengths


def position_ids(position: Any, span_start: Any, span_size: Any, lengths: Any) -> Any:
    """Position ids in a window of that true length, by the fields of a `Layout` (shapes broadcast)."""
    return position + (lengths - span_start).clip(0, span_size)


@functools.lru_cache(maxsize=256)
def make_layout(config: CompressorConfig, num_tokens: int) -> Layout:
    """The layout of one window of `num_tokens` >= 1 tokens.

    Raises:
      ConfigError: the window is longer than the compressor's learned slots reach.
    """
    ratio, chunk_size = config.ratio, config.chunk_size or num_tokens
    longest = window_length(config)
    fixed = config.method != 'mean_pool' and (config.chunk_size is None or config.memory_embeddings == 'per_window')
    if num_tokens > longest and fixed:
        raise ConfigError(
            f'a context of {num_tokens} tokens does not fit this compressor: expected at most {longest} '
            '(set compressor.window, or raise compressor.context_length)'
        )
    token = np.arange(num_tokens)
    chunk_starts = range(0, num_tokens, chunk_size)
    group_starts = [np.arange(start, min(start + chunk_size, num_tokens), ratio) for start in chunk_starts]
    group = np.concatenate(group_starts)
    slot_chunk = group // chunk_size
    slot_index = (group - slot_chunk * chunk_size) // ratio

    cells = Cells(
        kind=np.concatenate([np.full(num_tokens, CONTEXT), np.full(len(group), MEMORY)]),
        chunk=np.concatenate([token // chunk_size, slot_chunk]),
        index=np.concatenate([token % chunk_size, slot_index]),
        source=np.concatenate([token, group]),
    )
    is_slot = cells.kind == MEMORY
    stride = chunk_position_stride(config)
    position = np.where(is_slot, 0, cells.chunk * stride + cells.index)
    span_start, span_size = np.zeros_like(position), np.zeros_like(position)
    if config.positions == 'spread':
        position[is_slot] = spread_position(slot_chunk * stride + slot_index * ratio, ratio)
    elif config.positions == 'interleaved':
        position[is_slot] = slot_chunk * stride + chunk_size + slot_index
    elif config.position_origin == 'chunk':
        position[is_slot] = slot_index
        span_start[is_slot] = slot_chunk * chunk_size
        span_size[is_slot] = chunk_size
    else:
        position[is_slot] = np.arange(len(group))
        span_size[is_slot] = num_tokens
    return Layout(config, num_tokens, len(group), cells, position, span_start, span_size)


def chunk_position_stride(config: CompressorConfig) -> int:
    """How far apart the position ids of neighbouring chunks start (c = chunk_size, m = c / r).

    `interleaved` chunks own c + m ids each, the others c; with position_origin=chunk all start at 0.
    """
    if config.position_origin == 'chunk' or config.chunk_size is None:
        return 0
    if config.positions == 'interleaved':
        return config.chunk_size + config.chunk_size // config.ratio
    return config.chunk_size
