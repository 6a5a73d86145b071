"""Independent windows: a long context becomes rows of a batch, and their memories one memory again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.config import CompressorConfig
from pic_jax.masks import window_length


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
    size_B = jnp.full_like(lengths_B, longest)
    if config.window_split == 'even':
        count_B = jnp.maximum(-(-lengths_B // longest), 1)
        size_B = -(-lengths_B // count_B)
    starts_BW = jnp.arange(W)[None] * size_B[:, None]
    lengths_BW = (lengths_B[:, None] - starts_BW).clip(0, size_B[:, None])
    index_BWn = (starts_BW[..., None] + jnp.arange(longest)[None, None]).clip(0, S - 1)
    tokens_BWn = jnp.take_along_axis(tokens_BS[:, None], index_BWn, axis=2)
    return Windows(tokens_BWn, lengths_BW, starts_BW)


def pack_valid(valid_BM: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Moves the valid slots of each row to its front, in order, and zeroes the rest.

    Returns:
      the packed validity, then each of `arrays` ([B, M, ...]) packed the same way.
    """
    order_BM = jnp.argsort(~valid_BM, axis=1, stable=True)
    packed_BM = jnp.take_along_axis(valid_BM, order_BM, axis=1)

    def pack(array: jax.Array) -> jax.Array:
        extra = (1,) * (array.ndim - 2)
        taken = jnp.take_along_axis(array, order_BM.reshape(*order_BM.shape, *extra), axis=1)
        return jnp.where(packed_BM.reshape(*packed_BM.shape, *extra), taken, 0)

    return packed_BM, *(pack(array) for array in arrays)
