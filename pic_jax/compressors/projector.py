"""The map from an encoder's output to the vectors that the decoder reads: none, linear or a small MLP."""

import jax
import jax.numpy as jnp

from pic_jax.models.decoder import Params


def init_projector(key: jax.Array, kind: str, base: Params, norm_weight_D: jax.Array) -> dict[str, jax.Array]:
    """Starts as a scaling of the encoder's output to the size of word embeddings.

    The output has passed a final norm, whose weights often make it many times larger than the embeddings that the
    decoder's first layers were trained on.

    Args:
      kind: none | linear | mlp.
      norm_weight_D: weights of that norm.

    Returns:
      {} | {'kernel': [D, D]} | {'skip': [D, D], 'up': [D, 4D], 'down': [4D, D]}, float32.
    """
    table_VD = jnp.asarray(base['embed_tokens']['embedding'], jnp.float32)
    D = table_VD.shape[1]
    scale = _rms(table_VD) / _rms(jnp.asarray(norm_weight_D, jnp.float32))
    if kind == 'none':
        return {}
    if kind == 'linear':
        return {'kernel': scale * jnp.eye(D)}
    return {'skip': scale * jnp.eye(D), 'up': jax.random.normal(key, (D, 4 * D)) / D**0.5,
            'down': jnp.zeros((4 * D, D))}  # fmt: skip


def project(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """What `init_projector` made, applied to [..., D]."""
    if not weights:
        return x
    if 'kernel' in weights:
        return x @ weights['kernel'].astype(x.dtype)
    skip, up, down = (weights[name].astype(x.dtype) for name in ('skip', 'up', 'down'))
    return x @ skip + jax.nn.gelu(x @ up) @ down


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x))
