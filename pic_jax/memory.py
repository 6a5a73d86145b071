"""Memory: the only thing a decoder, an objective or a file ever gets from a compressor."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Memory:
    """A batch of compressed contexts.

    Attributes:
      embeddings: [B, M, D] vectors that the frozen decoder reads in place of the context.
      positions: [B, M] int32 position ids of the vectors in the decoder, counted from 0 at the
        start of the memory (a decoder prefix shifts them).
      valid: [B, M] bool; True slots come first, False slots are padding that nothing may attend to.
      text_start: [B] int32 position id of the special vector that follows the memory.
    """

    embeddings: jax.Array
    positions: jax.Array
    valid: jax.Array
    text_start: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """[B] int32 number of valid vectors, k_b."""
        return jnp.sum(self.valid, axis=-1, dtype=jnp.int32)
