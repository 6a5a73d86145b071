"""From contexts to windows, from windows to encoded slots, and from these to the memory that a decoder reads."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.budget import spread_position
from pic_jax.compressors import windows
from pic_jax.config import CompressorConfig, DecoderConfig
from pic_jax.masks import Layout, is_valid, make_layout, position_ids
from pic_jax.memory import Memory
from pic_jax.models.attention import PatternMask
from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.partitioning import constrain, merge_parts, split_parts
from pic_jax.patterns import Pattern


class WindowEncoder(Protocol):
    """What differs between the methods that encode windows. R rows of n tokens and k slots."""

    @property
    def config(self) -> CompressorConfig:
        """Its settings."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The frozen target."""
        ...

    @property
    def encoder_config(self) -> DecoderConfig:
        """Shape of the encoder's layers."""
        ...

    def pattern(self, num_tokens: int) -> Pattern:
        """Queries and keys of the encoder's attention in one window."""
        ...

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that do not fit."""
        ...

    def encode_windows(
        self, base: Params, trainable: dict[str, Any], embedding_index_Ck, tokens_Rn, positions_RS, mask: PatternMask
    ) -> dict[str, jax.Array]:
        """What the slots hold, [R, k, ...] by field of `Memory`.

        embedding_index_Ck: which learned vector each slot starts from; C = R, or 1 for all rows.
        positions_RS: ids of [n tokens][k slots]; mask: of `pattern`.
        """
        ...


class Parts(NamedTuple):
    """How a window falls into C parts of n tokens and k slots each, which are encoded on their own.

    layout: of a part. place: [C, n + k] which position of the window stands where, -1 for none. embedding_index: [C, k]
    which learned vector each slot starts from.
    """

    layout: Layout
    place: np.ndarray
    embedding_index: np.ndarray


def compress_windows(
    encoder: WindowEncoder, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array
) -> Memory:
    """Cuts contexts into windows, encodes all of them in one masked pass, and joins what the true lengths pay for.

    Where chunks are independent they become rows of their own, and no mask is larger than a chunk; unless another
    attention backend is asked for.

    Raises:
      ConfigError: the padded context does not fit the compressor's slots or the model's positions.
    """
    config = encoder.config
    encoder.check_length(tokens_BS.shape[1])
    cut = windows.split(config, tokens_BS, lengths_B)
    B, W, n = cut.tokens.shape
    layout, parts = make_layout(config, n), parts_of(config, n, encoder.decoder.attention)
    C, c = len(parts.place), parts.layout.num_tokens
    tokens_BPn = jnp.pad(cut.tokens, ((0, 0), (0, 0), (0, C * c - n))).reshape(B, W * C, c)
    # Whole on every device: slots are counted over all parts of a row.
    starts_BW, lengths_BW = (constrain(x, 'batch', 'length') for x in (cut.starts, cut.lengths))
    lengths_BW11 = lengths_BW[..., None, None]
    source_CS, start_CS, size_CS, position_CS = (
        np.where(parts.place < 0, missing, field[parts.place])
        for field, missing in (
            (layout.cells.source, n), (layout.span_start, 0), (layout.span_size, 0), (layout.position, 0)
        )
    )  # fmt: skip
    valid_BWCS = is_valid(source_CS[None, None], lengths_BW11)
    positions_BWCS = position_ids(position_CS[None, None], start_CS[None, None], size_CS[None, None], lengths_BW11)
    valid_RS, positions_RS = (
        merge_parts(jnp.asarray(x).reshape(B, W * C, x.shape[-1])) for x in (valid_BWCS, positions_BWCS)
    )
    pattern = encoder.pattern(parts.layout.num_tokens)
    mask = PatternMask(valid_RS[:, pattern.key_positions], pattern)
    index_Ck: Any = parts.embedding_index[:1]
    if config.memory_embeddings == 'per_window' and C > 1:
        index_Ck = merge_parts(jnp.broadcast_to(np.tile(parts.embedding_index, (W, 1)), (B, W * C, index_Ck.shape[1])))
    vectors = encoder.encode_windows(base, trainable, index_Ck, merge_parts(tokens_BPn), positions_RS, mask)
    k = layout.num_slots
    # The last chunk of a window may have places beyond the window's k slots.
    arrays = [split_parts(x, B).reshape(B, W, -1, *x.shape[2:])[:, :, :k] for x in vectors.values()]
    arrays = [x.reshape(B, W * k, *x.shape[3:]) for x in arrays]
    source_k = layout.cells.source[n:]
    valid_BM = constrain(is_valid(source_k[None, None], lengths_BW[..., None]).reshape(B, -1), 'batch', 'length')
    start_BM = (starts_BW[..., None] + source_k[None, None]).reshape(B, -1)
    valid_BM, start_BM, *arrays = windows.pack_valid(config, valid_BM, start_BM, *arrays)
    return decoder_memory(config, dict(zip(vectors, arrays, strict=True)), start_BM, valid_BM, lengths_B)


def parts_of(config: CompressorConfig, n: int, attention: str = 'auto') -> Parts:
    """The independent chunks of a window of n tokens; or the window itself, for backends that mask it whole."""
    apart = config.chunk_local and attention in ('auto', 'structured')
    c = min(config.chunk_size or n, n) if apart else n
    window, layout, C = make_layout(config, n), make_layout(config, c), -(-n // c)
    token_Cc, slot_Cm = (np.arange(C * size).reshape(C, size) for size in (c, layout.num_slots))
    k = window.num_slots
    place_CS = np.concatenate([np.where(token_Cc < n, token_Cc, -1), np.where(slot_Cm < k, n + slot_Cm, -1)], axis=1)
    return Parts(layout, place_CS, window.embedding_index[np.minimum(slot_Cm, k - 1)])


def first_vectors(table_MD: jax.Array, index_Ck: np.ndarray | jax.Array, R: int) -> jax.Array:
    """[R, k, D] what the slots of R rows start from; index_Ck as in `WindowEncoder.encode_windows`."""
    vectors_CkD = constrain(table_MD, 'slots', 'vector')[index_Ck]
    return jnp.broadcast_to(vectors_CkD, (R, *vectors_CkD.shape[1:]))


def decoder_memory(
    config: CompressorConfig,
    vectors: dict[str, jax.Array],
    start_BM: jax.Array,
    valid_BM: jax.Array,
    lengths_B: jax.Array,
) -> Memory:
    """Packed slots as the decoder sees them.

    Args:
      vectors: what they hold, [B, M, ...] by field of `Memory`.
      start_BM: the first context token of each slot's group.
      lengths_B: true context tokens.
    """
    slot_1M = jnp.arange(valid_BM.shape[1])[None]
    count_B = jnp.sum(valid_BM, axis=1, dtype=jnp.int32)
    if config.decoder_positions == 'sequential':
        positions_BM = jnp.where(valid_BM, slot_1M, 0)
        text_start_B = count_B
    else:
        positions_BM = jnp.where(valid_BM, spread_position(start_BM, config.ratio), 0)
        # The last slot of a short group may stand past the context's end; the text follows both.
        text_start_B = jnp.maximum(lengths_B, jnp.max(positions_BM, axis=1, initial=-1) + 1)
    places = positions_BM.astype(jnp.int32), valid_BM, text_start_B.astype(jnp.int32)
    return Memory(vectors.get('embeddings'), *places, vectors.get('keys'), vectors.get('values'))
