"""Attention of a block of queries over keys under a boolean mask."""

import jax


def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Scaled dot-product attention with grouped key/value heads; softmax in float32.

    Args:
      q_BTNH: queries. k_BSKH, v_BSKH: keys and values, K divides N.
      mask_BTS: bool, True = attend; a leading dimension of 1 serves the whole batch. A row without any True
        returns the mean of all values (jax.nn.dot_product_attention), so no reader may use such rows.

    Returns:
      [B, T, N, H] in the queries' dtype.
    """
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None])
