"""The iterative form: compress a text chunk by chunk, with nothing but the memory's key/value cache.

For every split of a text, `feed` ... `feed`, `flush` gives the memory that one masked pass gives; the mask of
the whole text is never built. Chunk-local compressors carry no state between chunks at all.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.budget import slots_in, window_length
from pic_jax.compressors.base import check_positions
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.compressors.slots import decoder_memory
from pic_jax.config import CompressorConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.masks import MEMORY, Cells, chunk_position_stride, make_layout, sees
from pic_jax.memory import Memory
from pic_jax.models.decoder import KeyValues, Params
from pic_jax.tensors import check_ids


class Slots(NamedTuple):
    """What new slots hold, [j, ...] by field of `Memory`, and the first context token [j] of the group of each."""

    vectors: dict[str, np.ndarray]
    starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Everything the next chunk needs.

    Attributes:
      past: keys and values [L, 1, P, K, H] of the memory of earlier chunks in this window, or None where the
        compressor is chunk-local; room beyond `past_count` slots is unused.
      past_count: slots in `past`.
      pending: int32 tokens of the unfinished chunk.
      num_tokens: tokens in finished chunks.
    """

    past: KeyValues | None
    past_count: int
    pending: np.ndarray
    num_tokens: int


def start(compressor: LLMCompressor) -> StreamState:
    """An empty stream.

    Raises:
      ConfigError: the compressor's options need the whole context at once.
    """
    reason = why_not_streamable(compressor.config)
    if reason:
        raise ConfigError(f'this compressor cannot stream: {reason}')
    past = None
    if _has_state(compressor.config):
        decoder, m = compressor.decoder, slots_in(compressor.config, _chunk_size(compressor.config))
        shape = (decoder.config.num_hidden_layers, 1, m, decoder.config.num_key_value_heads, decoder.config.head_dim)
        past = KeyValues(jnp.zeros(shape, decoder.dtype), jnp.zeros(shape, decoder.dtype))
    return StreamState(past, 0, np.zeros(0, np.int32), 0)


def feed(
    compressor: LLMCompressor, base: Params, trainable: dict[str, Any], state: StreamState, tokens: np.ndarray
) -> tuple[StreamState, Slots]:
    """Appends int32 tokens [n], compresses every chunk that is now full, and returns its vectors.

    Raises:
      PicJaxError: a token, or one that the state came with, is not in the model's vocabulary.
      ConfigError: the text is too long for the compressor.
    """
    pending = np.concatenate([state.pending, np.asarray(tokens, np.int32)])
    check_ids(pending, compressor.decoder.config.vocab_size)
    state, made = dataclasses.replace(state, pending=pending), []
    while len(state.pending) >= (size := _next_chunk_size(compressor.config, state.num_tokens)):
        state, slots = _compress_chunk(compressor, base, trainable, state, size)
        made.append(slots)
    return state, _concatenate(made, compressor)


def flush(compressor: LLMCompressor, base: Params, trainable: dict[str, Any], state: StreamState) -> Slots:
    """The vectors of the unfinished chunk; the stream ends here.

    Raises:
      PicJaxError: the state came with as many pending tokens as a chunk has, or a token as in `feed`.
      ConfigError: the text is too long for the compressor.
    """
    if not len(state.pending):
        return _concatenate([], compressor)
    if len(state.pending) >= (size := _next_chunk_size(compressor.config, state.num_tokens)):
        raise PicJaxError(f'the stream has {len(state.pending)} pending tokens: expected fewer than {size}, a chunk')
    check_ids(state.pending, compressor.decoder.config.vocab_size)
    return _compress_chunk(compressor, base, trainable, state, len(state.pending))[1]


def to_memory(compressor: LLMCompressor, parts: list[Slots], num_tokens: int) -> Memory:
    """One context's memory (B = 1) from the parts of a finished stream of `num_tokens` tokens."""
    slots = _concatenate(parts, compressor)
    start_1M = jnp.asarray(slots.starts)[None]
    valid_1M = jnp.ones((1, len(slots.starts)), bool)
    vectors = {name: jnp.asarray(array)[None] for name, array in slots.vectors.items()}
    return decoder_memory(compressor.config, vectors, start_1M, valid_1M, jnp.array([num_tokens]))


def why_not_streamable(config: CompressorConfig) -> str | None:
    """The option that keeps a context from being compressed chunk by chunk, or None where it can be."""
    if config.method in ('icformer', 'mean_pool', 'constant_memory'):
        return f'method {config.method} has no iterative form'
    if config.chunk_size is None and config.window is None:
        return 'the whole context is one chunk (set compressor.window, or use method pic)'
    if config.window is not None and config.window_split == 'even':
        return 'compressor.window_split=even needs the length of the whole context'
    if config.chunk_size is None:
        return None
    if config.context_sees == 'causal':
        return 'compressor.context_sees=causal lets tokens see every earlier token'
    if config.positions == 'end' and config.position_origin == 'window':
        return 'compressor.positions=end needs the length of the whole context'
    return None


def _has_state(config: CompressorConfig) -> bool:
    return config.chunk_size is not None and not config.chunk_local


def _chunk_size(config: CompressorConfig) -> int:
    """Tokens of a chunk where no window cuts it; what streams has chunks or windows (`why_not_streamable`)."""
    size = config.chunk_size or config.window
    if size is None:
        raise ConfigError('this compressor cannot stream: the whole context is one chunk')
    return size


def _full_chunk_size(config: CompressorConfig) -> int:
    """The most tokens a chunk can have; every chunk is padded to it, so that one shape is compiled."""
    longest = _chunk_size(config)
    bounded = config.window is not None or config.memory_embeddings == 'per_window'
    return min(longest, window_length(config)) if bounded else longest


def _next_chunk_size(config: CompressorConfig, num_tokens: int) -> int:
    """Tokens of the chunk that starts at `num_tokens`: a chunk ends where its window does."""
    if config.window is None:
        return _chunk_size(config)
    return min(_chunk_size(config), config.window - num_tokens % config.window)


def _compress_chunk(compressor, base, trainable, state: StreamState, size: int) -> tuple[StreamState, Slots]:
    config = compressor.config
    full_size = _full_chunk_size(config)
    in_window = state.num_tokens % config.window if config.window else state.num_tokens
    chunk = in_window // full_size
    layout = make_layout(config, full_size)
    offset = chunk * chunk_position_stride(config)
    check_positions(compressor.decoder, offset + make_layout(config, size).num_positions)
    if config.memory_embeddings == 'per_window' and in_window + size > window_length(config):
        raise ConfigError(
            f'this compressor has memory vectors for {window_length(config)} tokens and the stream is longer: '
            'set compressor.window, or compressor.memory_embeddings=per_chunk'
        )
    first_slot = chunk * layout.num_slots if config.memory_embeddings == 'per_window' else 0
    tokens_1c = np.zeros((1, full_size), np.int32)
    tokens_1c[0, :size] = state.pending[:size]
    vectors, key_values = _chunk_pass(
        compressor, base, trainable, tokens_1c, np.array([size]), offset, first_slot, state.past, state.past_count
    )
    k = slots_in(config, size)
    made = Slots(
        {name: np.asarray(array)[:k] for name, array in vectors.items()},
        state.num_tokens + layout.cells.source[layout.num_tokens :][:k],
    )
    num_tokens = state.num_tokens + size
    window_ends = config.window is not None and num_tokens % config.window == 0
    past, past_count = state.past, 0
    if past is not None and not window_ends:
        past, past_count = _append(past, state.past_count, key_values), state.past_count + k
    return StreamState(past, past_count, state.pending[size:], num_tokens), made


@functools.partial(jax.jit, static_argnums=0)
def _chunk_pass(
    compressor: LLMCompressor, base, trainable, tokens_1c, length_1, offset, first_slot, past, past_count
) -> tuple[dict[str, jax.Array], KeyValues]:
    """One chunk, padded to full size: what its k slots hold, [k, ...], and their keys and values [L, 1, k, K, H]."""
    config = compressor.config
    layout = make_layout(config, tokens_1c.shape[1])
    own = layout.cells
    keys, keys_valid_1S = own, layout.valid(length_1)
    if past is not None:
        P = past.k.shape[2]
        # Memory of earlier chunks: what matters to `sees` is only that its chunk comes before this one.
        earlier = Cells(*(np.full(P, value) for value in (MEMORY, -1, 0, -1)))
        keys = Cells(*(np.concatenate(pair) for pair in zip(earlier, own, strict=True)))
        keys_valid_1S = jnp.concatenate([jnp.arange(P)[None] < past_count, keys_valid_1S], axis=1)
    mask_1TS = sees(config, own[:, None], keys[None, :])[None] & keys_valid_1S[:, None, :]
    vectors, key_values = compressor.encode(
        base,
        trainable,
        tokens_1c,
        layout.embedding_index[None] + first_slot,
        layout.positions(length_1) + offset,
        mask_1TS,
        past,
    )
    own_vectors = {name: array[0] for name, array in vectors.items()}
    return own_vectors, jax.tree.map(lambda x: x[:, :, layout.num_tokens :], key_values)


def _append(past: KeyValues, count: int, new: KeyValues) -> KeyValues:
    """Writes k slots after the first `count`; room doubles when it is used up, so few shapes are compiled."""
    room, needed = past.k.shape[2], count + new.k.shape[2]
    grow = room if needed > room else 0

    def write(old: jax.Array, values: jax.Array) -> jax.Array:
        old = jnp.pad(old, ((0, 0), (0, 0), (0, grow), (0, 0), (0, 0)))
        return jax.lax.dynamic_update_slice(old, values.astype(old.dtype), (0, 0, count, 0, 0))

    return KeyValues(write(past.k, new.k), write(past.v, new.v))


def _concatenate(parts: list[Slots], compressor: LLMCompressor) -> Slots:
    dtype = np.dtype(compressor.decoder.dtype)
    empty = {name: np.zeros((0, *shape), dtype) for name, shape in compressor.slot_shapes.items()}
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), Slots(empty, np.zeros(0, np.int64)), *parts)
