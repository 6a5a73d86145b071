"""Negative log likelihood of tokens under a frozen output matrix, a part of the vocabulary at a time.

No [B, T, V] array is made, forward or backward. The gradient of a token's loss with respect to its hidden state,
sum over v of p_v W_v - W_token, is a softmax-weighted sum as attention's is, with W for keys and values; it is summed
up in the same pass as the loss, as FlashAttention (arXiv 2205.14135) sums its output. So training multiplies by the
matrix twice, as it does with all logits at hand.

B batch, T tokens, D model dim, V vocabulary; X ways in which a mesh splits V, each of which takes C words at a time.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.partitioning import RULES, constrain, ways

MOST = 8192  # words at a time


class _Sums(NamedTuple):
    """Of the words so far: largest logit, sum of exp(logit - largest), the token's logit, each [B, T, X]; and the sum
    of exp(logit - largest) W, [X, B, T, D], where the gradient is wanted."""

    largest: jax.Array
    total: jax.Array
    token: jax.Array
    weighted: jax.Array | None


def frozen_nats(decoder: Decoder, params: Params, hidden_BTD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """[B, T] float32 nats of tokens, each predicted from its hidden state; -log_softmax(logits)[token].

    Gradients reach the hidden states only: the parameters are constants to it.
    """
    tied = decoder.config.tie_word_embeddings
    matrix = params['embed_tokens']['embedding'].T if tied else params['lm_head']['kernel']
    return _nats(hidden_BTD, jax.lax.stop_gradient(matrix.astype(decoder.dtype)), tokens_BT)


@jax.custom_vjp
def _nats(hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    sums = _over_vocabulary(hidden_BTD, matrix_DV, tokens_BT, weighted=False)
    return _log_total(sums) - jnp.sum(sums.token, axis=-1)


def _forward(hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array):
    sums = _over_vocabulary(hidden_BTD, matrix_DV, tokens_BT, weighted=True)
    log_total_BT = _log_total(sums)
    share_BTX = jnp.exp(sums.largest - log_total_BT[..., None])
    mean_BTD = jnp.einsum('btx,xbtd->btd', share_BTX, sums.weighted)
    own_BTD = jnp.moveaxis(jnp.take(matrix_DV, tokens_BT, axis=1), 0, -1)
    slope_BTD = (mean_BTD - own_BTD.astype(jnp.float32)).astype(hidden_BTD.dtype)
    return log_total_BT - jnp.sum(sums.token, axis=-1), slope_BTD


def _backward(slope_BTD: jax.Array, nats_BT: jax.Array):
    return (nats_BT[..., None] * slope_BTD).astype(slope_BTD.dtype), None, None


_nats.defvjp(_forward, _backward)


def _log_total(sums: _Sums) -> jax.Array:
    """[B, T] log of the sum of exp(logit) over the vocabulary."""
    return jax.nn.logsumexp(sums.largest + jnp.log(sums.total), axis=-1)


def _over_vocabulary(hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array, weighted: bool) -> _Sums:
    mesh = jax.sharding.get_abstract_mesh()
    D, V = matrix_DV.shape
    X = 1 if mesh.empty or V % ways(mesh, RULES['vocab']) else ways(mesh, RULES['vocab'])
    C = words_at_a_time(V // X)
    # Not split, it stays as it is: the CPU compiler copies the whole of a matrix with a dimension of 1.
    matrix = matrix_DV if X == 1 else matrix_DV.reshape(D, X, V // X)
    first_X = jnp.arange(X) * (V // X)
    shape_BTX = (*hidden_BTD.shape[:2], X)

    def add(sums: _Sums, first: jax.Array) -> tuple[_Sums, None]:
        part_DXC = jax.lax.dynamic_slice_in_dim(matrix, first, C, axis=-1).reshape(D, X, C)
        logits_BTXC = jnp.einsum('btd,dxc->btxc', hidden_BTD, part_DXC, preferred_element_type=jnp.float32)
        logits_BTXC = constrain(logits_BTXC, 'batch', 'length', 'vocab', 'vector')
        word_XC = first_X[:, None] + first + jnp.arange(C)[None]
        is_token_BTXC = word_XC[None, None] == tokens_BT[..., None, None]
        largest = jnp.maximum(sums.largest, jnp.max(logits_BTXC, axis=-1))
        before = jnp.exp(sums.largest - largest)
        exp_BTXC = jnp.exp(logits_BTXC - largest[..., None])
        total = sums.total * before + jnp.sum(exp_BTXC, axis=-1)
        token = sums.token + jnp.sum(jnp.where(is_token_BTXC, logits_BTXC, 0), axis=-1)
        if sums.weighted is None:
            return _Sums(largest, total, token, None), None
        # X first, as in a batched product: XLA's CPU compiler turns a transposed one into one that bfloat16 lacks.
        more_XBTD = jnp.einsum(
            'btxc,dxc->xbtd', exp_BTXC.astype(part_DXC.dtype), part_DXC, preferred_element_type=jnp.float32
        )
        before_XBT = jnp.moveaxis(before, -1, 0)
        return _Sums(largest, total, token, sums.weighted * before_XBT[..., None] + more_XBTD), None

    zeros = jnp.zeros(shape_BTX, jnp.float32)
    weighted_XBTD = jnp.zeros((X, *hidden_BTD.shape), jnp.float32) if weighted else None
    # Lower than any logit, and finite: no part subtracts infinities.
    start = _Sums(zeros - 1e30, zeros, zeros, weighted_XBTD)
    return jax.lax.scan(add, start, jnp.arange(0, V // X, C))[0]


@functools.cache
def words_at_a_time(words: int) -> int:
    """The largest divisor up to MOST; all words where that would be a crumb."""
    divisor = max(size for size in range(1, min(words, MOST) + 1) if words % size == 0)
    return divisor if divisor >= min(words, MOST) // 16 else words
