"""Rotary position embedding, half-split as HF Llama has it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """[H / 2] float32 angular frequencies, theta^(-2i / H).

    `llama3` (Llama 3.1, as transformers' `_compute_llama3_parameters`): wavelengths beyond
    original / low_freq_factor are slowed by `factor`, those below original / high_freq_factor are kept, and
    the ones between are interpolated.
    """
    frequency = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if rope.type == 'llama3':
        turns = rope.original_max_position_embeddings * frequency / (2 * math.pi)
        blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        frequency = blend * frequency + (1 - blend) * frequency / rope.factor
    return frequency.astype(np.float32)


def rotation(rope: RopeConfig, head_dim: int, positions_BT: jax.Array, dtype) -> tuple[jax.Array, jax.Array]:
    """(cos, sin), each [B, T, 1, H], computed in float32 and cast to `dtype`."""
    angle = positions_BT[..., None].astype(jnp.float32) * inverse_frequencies(rope, head_dim)[None, None]
    angle = jnp.concatenate([angle, angle], axis=-1)[:, :, None]
    return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


def rotate(x_BTNH: jax.Array, cos_BT1H: jax.Array, sin_BT1H: jax.Array) -> jax.Array:
    """Rotates each pair (i, i + H / 2) of the last dimension by its angle."""
    low, high = jnp.split(x_BTNH, 2, axis=-1)
    return x_BTNH * cos_BT1H + jnp.concatenate([-high, low], axis=-1) * sin_BT1H
