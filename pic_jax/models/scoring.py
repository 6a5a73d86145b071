"""How well the frozen decoder predicts a text behind a memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.inputs import from_memory, last_valid, read


class Totals(NamedTuple):
    """Per example, over its target tokens: [B] summed nats, and [B] how many there are."""

    nats: jax.Array
    tokens: jax.Array


def text_logits(
    decoder: Decoder,
    base: Params,
    memory: Memory,
    special_D: jax.Array | None,
    prefix: tuple[int, ...],
    tokens_BT: jax.Array,
) -> jax.Array:
    """[B, T, V] float32 logits that predict each text token from what stands before it."""
    hidden_BTD = text_hidden(decoder, base, memory, special_D, prefix, tokens_BT)
    logits_BTV: Any = decoder.apply({'params': base}, hidden_BTD, method='logits')
    return logits_BTV


def text_hidden(
    decoder: Decoder,
    base: Params,
    memory: Memory,
    special_D: jax.Array | None,
    prefix: tuple[int, ...],
    tokens_BT: jax.Array,
) -> jax.Array:
    """[B, T, D] hidden states that predict each text token.

    Token 0 is predicted at the last valid position before the text: the special vector where there is one.
    """
    T = tokens_BT.shape[1]
    inputs = from_memory(decoder, base, memory, special_D, prefix, tokens_BT, jnp.full(tokens_BT.shape[0], T))
    hidden_BSD, _, _ = read(decoder, base, inputs)
    last_B = last_valid(inputs.valid[:, :-T])
    first_B1D = jnp.take_along_axis(hidden_BSD, last_B[:, None, None], axis=1)
    return jnp.concatenate([first_B1D, hidden_BSD[:, -T:-1]], axis=1)


def nll(logits_BTV: jax.Array, tokens_BT: jax.Array, is_target_BT: jax.Array) -> Totals:
    """Negative log likelihood of the target tokens, in nats."""
    return total(token_nats(logits_BTV, tokens_BT), is_target_BT)


def total(nats_BT: jax.Array, is_target_BT: jax.Array) -> Totals:
    """Sums over the target tokens."""
    return Totals(jnp.sum(jnp.where(is_target_BT, nats_BT, 0), axis=1), jnp.sum(is_target_BT, axis=1))


def token_nats(logits_BTV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """[B, T] negative log likelihood of every token, in nats."""
    log_probs_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
    return -jnp.take_along_axis(log_probs_BTV, tokens_BT[..., None], axis=-1)[..., 0]


def hits(logits_BTV: jax.Array, tokens_BT: jax.Array, is_target_BT: jax.Array) -> jax.Array:
    """[B] int32 how many of the target tokens are the likeliest token at their place."""
    return jnp.sum((jnp.argmax(logits_BTV, axis=-1) == tokens_BT) & is_target_BT, axis=1, dtype=jnp.int32)


def divergence(student_BTV: jax.Array, teacher_BTV: jax.Array, is_target_BT: jax.Array) -> Totals:
    """KL(teacher || student) at the positions that predict target tokens, in nats."""
    teacher_BTV, student_BTV = jax.nn.log_softmax(teacher_BTV), jax.nn.log_softmax(student_BTV)
    kl_BT = jnp.sum(jnp.exp(teacher_BTV) * (teacher_BTV - student_BTV), axis=-1)
    return total(kl_BT, is_target_BT)
