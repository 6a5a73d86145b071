"""What every compressor is: two pure functions on pytrees."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from pic_jax.errors import ConfigError
from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params

SPECIALS = ('ae', 'lm', 'ft')


class Compressor(Protocol):
    """A hashable description of a method; its weights live in the `trainable` tree that `init` makes.

    Every trainable tree has `special`: {'ae' | 'lm' | 'ft': [D]}, the vector that follows the memory and tells
    the decoder what to do with it (reconstruct, continue, answer).
    """

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """Fresh trainable parameters (float32) for the frozen target `base`."""
        ...

    def check_length(self, num_tokens: int) -> None:
        """Raises ConfigError where contexts of that length do not fit the compressor or the model."""
        ...

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """Memory of right-padded contexts: int32 tokens [B, S], true lengths [B] >= 1."""
        ...


def like_words(key: jax.Array, base: Params, *shape: int) -> jax.Array:
    """[*shape, D] float32 vectors with the mean and spread of the target's word embeddings (as EPL draws them)."""
    table_VD = jnp.asarray(base['embed_tokens']['embedding'], jnp.float32)
    mean_D, std_D = jnp.mean(table_VD, axis=0), jnp.std(table_VD, axis=0)
    ones = (1,) * len(shape)
    return mean_D.reshape(*ones, -1) + std_D.reshape(*ones, -1) * jax.random.normal(key, (*shape, len(mean_D)))


def init_specials(key: jax.Array, base: Params) -> dict[str, jax.Array]:
    """{name: [D]} for every special vector, drawn like word embeddings."""
    keys = jax.random.split(key, len(SPECIALS))
    return {name: like_words(k, base) for name, k in zip(SPECIALS, keys, strict=True)}


def check_positions(decoder: Decoder, needed: int) -> None:
    """Refuses contexts whose position ids pass those of the target.

    Raises:
      ConfigError: `needed` position ids are more than the model has.
    """
    available = decoder.config.max_position_embeddings
    if needed > available:
        raise ConfigError(
            f'the context needs {needed} position ids but the model has {available}: '
            'set compressor.window, or compressor.position_origin=chunk'
        )
