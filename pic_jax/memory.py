"""Memory: the only thing a decoder, an objective or a file ever gets from a compressor."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Memory:
    """A batch of compressed contexts.

    Attributes:
      embeddings: [B, M, D] vectors that the frozen decoder reads in place of the context; None where it finds `keys`
        and `values` instead.
      positions: [B, M] int32 position ids of the vectors in the decoder, counted from 0 at the
        start of the memory (a decoder prefix shifts them).
      valid: [B, M] bool; True slots come first, False slots are padding that nothing may attend to.
      text_start: [B] int32 position id of the special vector that follows the memory.
      keys, values: [B, M, L, K, H] what every layer of the decoder attends to in place of the context, or None. Keys
        are as before RoPE, so that the decoder may turn them to any position.
    """

    embeddings: jax.Array | None
    positions: jax.Array
    valid: jax.Array
    text_start: jax.Array
    keys: jax.Array | None = None
    values: jax.Array | None = None

    @property
    def vectors(self) -> dict[str, jax.Array]:
        """What the slots hold, by field name: arrays [B, M, ...]."""
        fields = {'embeddings': self.embeddings, 'keys': self.keys, 'values': self.values}
        return {name: array for name, array in fields.items() if array is not None}

    @property
    def lengths(self) -> jax.Array:
        """[B] int32 number of valid vectors, k_b."""
        return jnp.sum(self.valid, axis=-1, dtype=jnp.int32)
