"""What every compressor is: two pure functions on pytrees."""

from typing import Any, Protocol

import jax

from pic_jax.memory import Memory
from pic_jax.models.decoder import Params

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
