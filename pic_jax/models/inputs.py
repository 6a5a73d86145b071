"""What the frozen decoder reads: [prefix ids][memory][special vector][text]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params


class DecoderInput(NamedTuple):
    """x: [B, T, D] embeddings; positions: [B, T] int32 ids; valid: [B, T] bool, False = padding."""

    x: jax.Array
    positions: jax.Array
    valid: jax.Array


def causal_mask(valid_BT: jax.Array) -> jax.Array:
    """[B, T, T] bool: earlier valid positions, in storage order."""
    return jnp.tri(valid_BT.shape[1], dtype=bool)[None] & valid_BT[:, None, :]


def last_valid(valid_BT: jax.Array) -> jax.Array:
    """[B] index of the last valid position of each row."""
    return valid_BT.shape[1] - 1 - jnp.argmax(valid_BT[:, ::-1], axis=1)


def word_memory(decoder: Decoder, params: Params, tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
    """Plain text as a memory: its word embeddings at positions 0 .. length - 1."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1], dtype=jnp.int32), tokens_BS.shape)
    valid_BS = positions_BS < lengths_B[:, None]
    embeddings_BSD = decoder.apply({'params': params}, tokens_BS, method='embed')
    return Memory(embeddings_BSD, positions_BS, valid_BS, lengths_B.astype(jnp.int32))


def from_tokens(decoder: Decoder, params: Params, tokens_BS: jax.Array, lengths_B: jax.Array) -> DecoderInput:
    """Plain right-padded text."""
    words = word_memory(decoder, params, tokens_BS, lengths_B)
    return DecoderInput(words.embeddings, words.positions, words.valid)


def from_memory(
    decoder: Decoder,
    params: Params,
    memory: Memory,
    special_D: jax.Array | None,
    prefix: tuple[int, ...],
    text_BT: jax.Array,
    text_lengths_B: jax.Array,
) -> DecoderInput:
    """A context and the text after it; the text takes up the last T positions of the result.

    Args:
      special_D: the vector between memory and text, at position id `text_start`; None where the memory is plain
        text, which then goes on without a gap.
      prefix: token ids before the memory; they shift every other position.
    """
    B, P = text_BT.shape[0], len(prefix)
    prefix_BP = jnp.broadcast_to(jnp.asarray(prefix, jnp.int32)[None], (B, P))
    before = word_memory(decoder, params, prefix_BP, jnp.full(B, P))
    text = word_memory(decoder, params, text_BT, text_lengths_B)
    start_B1 = P + memory.text_start[:, None]
    parts = [
        DecoderInput(before.embeddings, before.positions, before.valid),
        DecoderInput(memory.embeddings.astype(decoder.dtype), P + memory.positions, memory.valid),
    ]
    if special_D is not None:
        special_B1D = jnp.broadcast_to(special_D[None, None].astype(decoder.dtype), (B, 1, special_D.shape[-1]))
        parts.append(DecoderInput(special_B1D, start_B1, jnp.ones((B, 1), bool)))
        start_B1 = start_B1 + 1
    parts.append(DecoderInput(text.embeddings, start_B1 + text.positions, text.valid))
    return DecoderInput(*(jnp.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
