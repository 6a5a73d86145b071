"""Prefill, then a jitted decode loop over a key/value cache of fixed size."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.config.checks import require
from pic_jax.errors import ConfigError
from pic_jax.models.decoder import Decoder, KeyValues, Params
from pic_jax.models.inputs import DecoderInput, last_valid, read


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 keep every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(f'{self} is not valid: expected finite temperature >= 0, top_k >= 0 and 0 < top_p <= 1')


GREEDY = Sampling()


def check_new_tokens(max_new_tokens: int) -> None:
    """Raises ConfigError where an answer could have no token."""
    require(max_new_tokens >= 1, 'max_new_tokens', max_new_tokens, 'a positive number')


def filter_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """[B, V] logits to draw from, -inf for tokens left out: temperature, top-k, top-p in transformers' order."""
    logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        kth_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    if sampling.top_p < 1:
        # A token stays while the probability of the tokens before it is still below top_p.
        sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
        probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
        before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
        kept_BV = jnp.where(before_BV < sampling.top_p, sorted_BV, jnp.inf)
        logits_BV = jnp.where(logits_BV < jnp.min(kept_BV, axis=-1, keepdims=True), -jnp.inf, logits_BV)
    return logits_BV


def sample(logits_BV: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    """[B] int32 next tokens."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, filter_logits(logits_BV, sampling), axis=-1).astype(jnp.int32)


class Cache(NamedTuple):
    """With room for T tokens to come: keys and values, [L, B, S + T, K, H] each; and `valid`, [B, S + T] bool."""

    key_values: KeyValues
    valid: jax.Array


@functools.partial(jax.jit, static_argnames=('decoder', 'max_new_tokens', 'eos_ids', 'sampling'))
def generate(
    decoder: Decoder,
    params: Params,
    inputs: DecoderInput,
    max_new_tokens: int,
    eos_ids: tuple[int, ...] = (),
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Continues a batch of inputs of different lengths.

    Args:
      inputs: what stands before the first new token; padding may be anywhere (`valid` says where).
      eos_ids: any of these ends a row.
      key: what is drawn with unless greedy; jax.random.key(0) by default.

    Returns:
      tokens [B, max_new_tokens] int32, rows that ended filled up with their end token; and lengths [B] int32,
      the number of tokens before the end token.
    """
    key = jax.random.key(0) if key is None else key
    hidden_B1D, first_position_B, cache = _prefill(decoder, params, inputs, max_new_tokens)
    S = cache.valid.shape[1] - max_new_tokens

    def next_token(hidden_B1D, step):
        logits_B1V: Any = decoder.apply({'params': params}, hidden_B1D, method='logits')
        return sample(logits_B1V[:, 0], sampling, jax.random.fold_in(key, step))

    token_B = next_token(hidden_B1D, 0)
    tokens_BT = jnp.zeros((len(token_B), max_new_tokens), jnp.int32).at[:, 0].set(token_B)

    def unfinished(state):
        step, _, _, _, done_B = state
        return (step < max_new_tokens) & ~jnp.all(done_B)

    def advance(state):
        step, cache, tokens_BT, token_B, done_B = state
        hidden_B1D, cache = _read_token(decoder, params, token_B, first_position_B + step - 1, S + step - 1, cache)
        token_B = jnp.where(done_B, token_B, next_token(hidden_B1D, step))
        tokens_BT = tokens_BT.at[:, step].set(token_B)
        return step + 1, cache, tokens_BT, token_B, done_B | _ends(token_B, eos_ids)

    state = (jnp.int32(1), cache, tokens_BT, token_B, _ends(token_B, eos_ids))
    steps, _, tokens_BT, token_B, _ = jax.lax.while_loop(unfinished, advance, state)
    written_T = jnp.arange(max_new_tokens) < steps
    return _cut(jnp.where(written_T[None], tokens_BT, token_B[:, None]), eos_ids)


def _prefill(
    decoder: Decoder, params: Params, inputs: DecoderInput, max_new_tokens: int
) -> tuple[jax.Array, jax.Array, Cache]:
    """Reads the inputs: the last hidden state [B, 1, D] and the position behind it [B] of each row, and the cache."""
    hidden_BTD, prefill, valid_BS = read(decoder, params, inputs)
    last_B = last_valid(inputs.valid)
    position_B = jnp.take_along_axis(inputs.positions, last_B[:, None], axis=1)[:, 0] + 1
    hidden_B1D = jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)
    room = ((0, 0), (0, 0), (0, max_new_tokens), (0, 0), (0, 0))
    key_values = KeyValues(jnp.pad(prefill.k, room), jnp.pad(prefill.v, room))
    return hidden_B1D, position_B, Cache(key_values, jnp.pad(valid_BS, ((0, 0), (0, max_new_tokens))))


def _read_token(
    decoder: Decoder, params: Params, token_B: jax.Array, position_B: jax.Array, place: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Reads one more token of each row: its hidden state [B, 1, D], and the cache with the token at `place`."""
    apply = functools.partial(decoder.apply, {'params': params})
    seen_B1S = jnp.concatenate([cache.valid, jnp.ones((len(token_B), 1), bool)], axis=1)[:, None]
    x_B1D = apply(token_B[:, None], method='embed')
    hidden_B1D, new = apply(x_B1D, position_B[:, None], seen_B1S, cache.key_values)
    at = (0, 0, place, 0, 0)
    key_values = KeyValues(
        *(jax.lax.dynamic_update_slice(old, one, at) for old, one in zip(cache.key_values, new, strict=True))
    )
    return hidden_B1D, Cache(key_values, cache.valid.at[:, place].set(True))


def _ends(tokens: jax.Array, eos_ids: tuple[int, ...]) -> jax.Array:
    """Which tokens end a row, bool of their shape."""
    return jnp.isin(tokens, jnp.asarray(eos_ids, jnp.int32)) if eos_ids else jnp.zeros_like(tokens, bool)


def _cut(tokens_BT: jax.Array, eos_ids: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The tokens, and how many of them [B] stand before each row's first end token."""
    is_end_BT = _ends(tokens_BT, eos_ids)
    lengths_B = jnp.where(jnp.any(is_end_BT, axis=1), jnp.argmax(is_end_BT, axis=1), tokens_BT.shape[1])
    return tokens_BT, lengths_B.astype(jnp.int32)
