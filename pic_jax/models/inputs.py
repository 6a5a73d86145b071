"""What the frozen decoder reads: [prefix ids][memory][special vector][text]."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.memory import Memory
from pic_jax.models.attention import PatternMask
from pic_jax.models.decoder import Decoder, KeyValues, Params
from pic_jax.models.rope import rotate, rotation
from pic_jax.patterns import causal


class Past(NamedTuple):
    """Memory of keys and values: key_values as a cache has them; positions: [B, M] int32; valid: [B, M] bool."""

    key_values: KeyValues
    positions: jax.Array
    valid: jax.Array


class DecoderInput(NamedTuple):
    """x: [B, T, D] embeddings; positions: [B, T] int32 ids; valid: [B, T] bool, False = padding; past: see `Past`."""

    x: jax.Array
    positions: jax.Array
    valid: jax.Array
    past: Past | None = None


def causal_mask(valid_BT: jax.Array) -> PatternMask:
    """Earlier valid positions, in storage order."""
    return PatternMask(valid_BT, causal(valid_BT.shape[1]))


def read(decoder: Decoder, params: Params, inputs: DecoderInput) -> tuple[jax.Array, KeyValues, jax.Array]:
    """One causal pass over the input; what stands behind the past sees it, what stands before it does not.

    Returns:
      hidden [B, T, D], and a cache of all S = M + T positions (M = 0 without a past): keys and values [L, B, S, K, H],
      and which of them later tokens may attend to, bool [B, S].
    """
    variables, mask = {'params': params}, causal_mask(inputs.valid)
    if inputs.past is None:
        found: Any = decoder.apply(variables, inputs.x, inputs.positions, mask)
        hidden_BTD, cache = found
        return hidden_BTD, cache, inputs.valid
    past = inputs.past
    sees_BTM = past.valid[:, None] & (past.positions[:, None] < inputs.positions[..., None])
    mask_BTS = jnp.concatenate([sees_BTM, mask.dense], axis=2)
    found = decoder.apply(variables, inputs.x, inputs.positions, mask_BTS, past.key_values)
    hidden_BTD, own = found
    cache = jax.tree.map(lambda before, after: jnp.concatenate([before, after], axis=2), past.key_values, own)
    return hidden_BTD, cache, jnp.concatenate([past.valid, inputs.valid], axis=1)


def last_valid(valid_BT: jax.Array) -> jax.Array:
    """[B] index of the last valid position of each row."""
    return valid_BT.shape[1] - 1 - jnp.argmax(valid_BT[:, ::-1], axis=1)


def word_memory(decoder: Decoder, params: Params, tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
    """Plain text as a memory: its word embeddings at positions 0 .. length - 1."""
    words = from_tokens(decoder, params, tokens_BS, lengths_B)
    return Memory(words.x, words.positions, words.valid, lengths_B.astype(jnp.int32))


def from_tokens(decoder: Decoder, params: Params, tokens_BS: jax.Array, lengths_B: jax.Array) -> DecoderInput:
    """Plain right-padded text."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1], dtype=jnp.int32), tokens_BS.shape)
    valid_BS = positions_BS < lengths_B[:, None]
    x_BSD: Any = decoder.apply({'params': params}, tokens_BS, method='embed')
    return DecoderInput(x_BSD, positions_BS, valid_BS)


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
    before = from_tokens(decoder, params, prefix_BP, jnp.full(B, P))
    text = from_tokens(decoder, params, text_BT, text_lengths_B)
    start_B1 = P + memory.text_start[:, None]
    parts, past = [before], None
    if memory.embeddings is None:
        past = _past(decoder, memory, P)
    else:
        parts.append(DecoderInput(memory.embeddings.astype(decoder.dtype), P + memory.positions, memory.valid))
    if special_D is not None:
        special_B1D = jnp.broadcast_to(special_D[None, None].astype(decoder.dtype), (B, 1, special_D.shape[-1]))
        parts.append(DecoderInput(special_B1D, start_B1, jnp.ones((B, 1), bool)))
        start_B1 = start_B1 + 1
    parts.append(DecoderInput(text.x, start_B1 + text.positions, text.valid))
    columns = zip(*(part[:3] for part in parts), strict=True)
    x_BSD, positions_BS, valid_BS = (jnp.concatenate(arrays, axis=1) for arrays in columns)
    return DecoderInput(x_BSD, positions_BS, valid_BS, past)


def _past(decoder: Decoder, memory: Memory, offset: int) -> Past:
    """The memory's keys, turned to their positions behind `offset` tokens, and its values."""
    vectors, positions_BM = memory.vectors, offset + memory.positions
    cos_sin = rotation(decoder.config.rope, decoder.config.head_dim, positions_BM, decoder.dtype)
    keys_LBMKH, values_LBMKH = (
        jnp.moveaxis(x, 2, 0).astype(decoder.dtype) for x in (vectors['keys'], vectors['values'])
    )
    keys_LBMKH = jax.vmap(lambda keys_BMKH: rotate(keys_BMKH, *cos_sin))(keys_LBMKH)
    return Past(KeyValues(keys_LBMKH, values_LBMKH), positions_BM, memory.valid)
