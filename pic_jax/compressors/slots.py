"""From contexts to windows, from windows to encoded slots, and from these to the memory that a decoder reads."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from pic_jax.compressors import windows
from pic_jax.config import CompressorConfig, DecoderConfig
from pic_jax.masks import Layout, make_layout
from pic_jax.memory import Memory
from pic_jax.models.decoder import Params


class WindowEncoder(Protocol):
    """What differs between the methods that encode windows. R windows of n tokens and k slots."""

    config: CompressorConfig

    @property
    def encoder_config(self) -> DecoderConfig:
        """Shape of the encoder's layers."""
        ...

    def sight(self, layout: Layout) -> tuple[slice, slice]:
        """Which of the Layout's positions are the T queries and the S keys of the encoder's attention."""
        ...

    def encode_windows(
        self, base: Params, trainable: dict[str, Any], layout: Layout, tokens_Rn, positions_RS, mask_RTS
    ) -> dict[str, jax.Array]:
        """What the slots hold, [R, k, ...] by field of `Memory`.

        positions_RS: ids of [n tokens][k slots]; mask_RTS: bool, of `sight`.
        """
        ...


def compress_windows(
    encoder: WindowEncoder, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array
) -> Memory:
    """Cuts contexts into windows, encodes all of them in one masked pass, and joins what the true lengths pay for.

    Raises:
      ConfigError: the padded context does not fit the compressor's slots or the model's positions.
    """
    config = encoder.config
    parts = windows.split(config, tokens_BS, lengths_B)
    B, W, n = parts.tokens.shape
    layout, lengths_R = make_layout(config, n), parts.lengths.reshape(B * W)
    queries, keys = encoder.sight(layout)
    valid_RS = layout.valid(lengths_R)
    mask_RTS = layout.dense_mask(queries, keys)[None] & valid_RS[:, None, keys]
    tokens_Rn, positions_RS = parts.tokens.reshape(B * W, n), layout.positions(lengths_R)
    vectors = encoder.encode_windows(base, trainable, layout, tokens_Rn, positions_RS, mask_RTS)
    valid_BM = valid_RS[:, n:].reshape(B, -1)
    slot_start_Wk = parts.starts[..., None] + layout.cells.source[n:][None, None]
    spread_BM = slot_start_Wk.reshape(B, -1) + (config.ratio - 1) // 2
    arrays = [array.reshape(B, -1, *array.shape[2:]) for array in vectors.values()]
    valid_BM, spread_BM, *arrays = windows.pack_valid(valid_BM, spread_BM, *arrays)
    return decoder_memory(config, dict(zip(vectors, arrays, strict=True)), spread_BM, valid_BM, lengths_B)


def decoder_memory(
    config: CompressorConfig,
    vectors: dict[str, jax.Array],
    spread_BM: jax.Array,
    valid_BM: jax.Array,
    lengths_B: jax.Array,
) -> Memory:
    """Packed slots as the decoder sees them.

    Args:
      vectors: what they hold, [B, M, ...] by field of `Memory`.
      spread_BM: id of each slot if memory is spread over the context (its group's start + (r - 1) // 2).
      lengths_B: true context tokens.
    """
    slot_1M = jnp.arange(valid_BM.shape[1])[None]
    count_B = jnp.sum(valid_BM, axis=1, dtype=jnp.int32)
    if config.decoder_positions == 'sequential':
        positions_BM = jnp.where(valid_BM, slot_1M, 0)
        text_start_B = count_B
    else:
        positions_BM = spread_BM
        # The last slot of a short group may stand past the context's end; the text follows both.
        text_start_B = jnp.maximum(lengths_B, jnp.max(spread_BM, axis=1, initial=-1) + 1)
    places = positions_BM.astype(jnp.int32), valid_BM, text_start_B.astype(jnp.int32)
    return Memory(vectors.get('embeddings'), *places, vectors.get('keys'), vectors.get('values'))
