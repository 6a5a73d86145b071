"""Independent windows: a long context becomes rows of a batch, and their memories one memory again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.budget import window_length
from pic_jax.config import CompressorConfig


class Windows(NamedTuple):
    """W windows per row. tokens: [B, W, n]; lengths, starts: [B, W] true tokens and first token of each."""

    tokens: jax.Array
    lengths: jax.Array
    starts: jax.Array


def split(config: CompressorConfig, tokens_BS: jax.Array, lengths_B: jax.Array) -> Windows:
    """Cuts each row as `window` and `window_split` say; a window past the end of its row has length 0."""
    S = tokens_BS.shape[1]
    if config.window is None or config.window >= S:
        return Windows(tokens_BS[:, None], lengths_B[:, None], jnp.zeros_like(lengths_B)[:, None])
    longest = window_length(config)
    W = -(-S // longest)
    window_1W = jnp.arange(W)[None]
    if config.window_split == 'even':
        count_B = jnp.maximum(-(-lengths_B // longest), 1)
        size_B = -(-lengths_B // count_B)
        starts_BW = window_1W * size_B[:, None]
        index_BWn = (starts_BW[..., None] + jnp.arange(longest)[None, None]).clip(0, S - 1)
        tokens_BWn = jnp.take_along_axis(tokens_BS[:, None], index_BWn, axis=2)
    else:  # without an index, so that no device needs the tokens of another one
        size_B = jnp.full_like(lengths_B, longest)
        starts_BW = jnp.broadcast_to(window_1W * longest, (len(lengths_B), W))
        tokens_BWn = jnp.pad(tokens_BS, ((0, 0), (0, W * longest - S))).reshape(-1, W, longest)
    lengths_BW = (lengths_B[:, None] - starts_BW).clip(0, size_B[:, None])
    return Windows(tokens_BWn, lengths_BW, starts_BW)


def pack_valid(config: CompressorConfig, valid_BM: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Moves the valid slots of each row to its front, in order, and zeroes the rest.

    Only windows of `even` sizes leave gaps; elsewhere the valid slots stand in front already.

    Returns:
      the packed validity, then each of `arrays` ([B, M, ...]) packed the same way.
    """
    if config.window is not None and config.window_split == 'even':
        order_BM = jnp.argsort(~valid_BM, axis=1, stable=True)
        valid_BM, *packed = (
            jnp.take_along_axis(array, order_BM.reshape(*order_BM.shape, *(1,) * (array.ndim - 2)), axis=1)
            for array in (valid_BM, *arrays)
        )
        arrays = tuple(packed)
    return valid_BM, *(jnp.where(valid_BM.reshape(*valid_BM.shape, *(1,) * (x.ndim - 2)), x, 0) for x in arrays)
