"""What a compressor is compared with: the same frozen decoder reading something else in the memory's place."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.inputs import word_memory

CONTROLS = ('full_context', 'truncate_last_k', 'truncate_first_k', 'shuffled_memory', 'no_context')


class View(NamedTuple):
    """What stands before the text, and whether the objective's special vector follows it."""

    memory: Memory
    special: bool


def without_memory(methods: Sequence[str]) -> list[str]:
    """Those of the methods that read no memory: neither its vectors nor how many there are matters to them."""
    return [name for name in methods if name in ('full_context', 'no_context')]


def control_view(
    name: str, decoder: Decoder, base: Params, tokens_BS: jax.Array, lengths_B: jax.Array, memory: Memory, other: Memory
) -> View:
    """The named control on a batch of contexts.

    Args:
      memory: the method's memory of the batch; its lengths set k for the truncations.
      other: the method's memory of another document for every row.

    Returns:
      full_context: every word. truncate_last_k, truncate_first_k: as many words as the memory has vectors.
      shuffled_memory: `other`. no_context: nothing.
    """
    B, S = tokens_BS.shape
    if name == 'full_context':
        return View(word_memory(decoder, base, tokens_BS, lengths_B), False)
    if name == 'no_context':
        return View(word_memory(decoder, base, tokens_BS[:, :0], jnp.zeros(B, jnp.int32)), False)
    if name == 'shuffled_memory':
        return View(other, True)
    kept_B = jnp.minimum(memory.lengths, lengths_B)
    start_B = lengths_B - kept_B if name == 'truncate_last_k' else jnp.zeros_like(lengths_B)
    index_BM = (start_B[:, None] + jnp.arange(memory.valid.shape[1])[None]).clip(0, S - 1)
    return View(word_memory(decoder, base, jnp.take_along_axis(tokens_BS, index_BM, axis=1), kept_B), False)
