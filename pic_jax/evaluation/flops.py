"""Floating-point operations, counted on jaxprs: of any function, and of compressing a context."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from pic_jax.compressors.slots import WindowEncoder, parts_of
from pic_jax.config import CompressorConfig
from pic_jax.masks import Cells, sees
from pic_jax.models.attention import PatternMask


def count_flops(function: Callable, *args: Any, rounds: int | None = None) -> float:
    """Operations of all matrix products in a function: 2 m n k each, loops of known length unrolled.

    XLA's own cost analysis counts the body of a scan once, whatever its length; this walk multiplies. It is taken
    before compilation: attention counts for every pair that its backend computes, seen or not, and recomputation under
    `jax.checkpoint` counts. A Pallas kernel counts for every cell of its grid, also for those that it skips.
    Nothing runs and nothing is allocated.

    Args:
      function: anything that `jax.make_jaxpr` traces. args: arrays or ShapeDtypeStructs.
      rounds: how often a `while_loop` is taken to run.

    Raises:
      ValueError: a `while_loop` has matrix products in it (its length is not known before it runs) and `rounds` is not
        given.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr, rounds)


def _count(jaxpr: Any, rounds: int | None) -> float:
    return sum(_count_equation(equation, rounds) for equation in jaxpr.eqns)


def _count_equation(equation: Any, rounds: int | None) -> float:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inner = [_count(jaxpr, rounds) for jaxpr in jaxprs_in_params(params)]
    if name == 'scan':
        return params['length'] * sum(inner)
    if name == 'cond':
        return max(inner)
    if name == 'while' and rounds is not None:
        return rounds * sum(inner)
    if name == 'pallas_call':
        return math.prod(params['grid_mapping'].grid) * sum(inner)
    if name == 'while' and sum(inner):
        raise ValueError('cannot count the operations of a while_loop of unknown length: give `rounds`')
    return sum(inner)


class CompressionFlops(NamedTuple):
    """Operations of the matrix products that compress one context.

    executed: as the encoder's attention backend computes it. useful: attention at True entries of the mask only.
    """

    executed: float
    useful: float


def compression_flops(encoder: WindowEncoder, base: Any, trainable: Any, num_tokens: int) -> CompressionFlops:
    """Counts the encoder on one context. Nothing is computed; no mask of the whole context is made.

    Args:
      base, trainable: arrays or ShapeDtypeStructs.
      num_tokens: n, a multiple of the window where the compressor has one.

    Raises:
      ValueError: the windows do not divide n.
    """
    config, shape = encoder.config, encoder.encoder_config
    window = min(config.window or num_tokens, num_tokens)
    if num_tokens % window:
        raise ValueError(f'num_tokens={num_tokens} is not valid: expected a multiple of compressor.window={window}')
    parts = parts_of(config, window, encoder.decoder.attention)
    R, row = num_tokens // window * len(parts.place), parts.layout
    pattern, whole = encoder.pattern(row.num_tokens), encoder.pattern(window)
    S = pattern.shape[1]
    arrays = (
        jax.ShapeDtypeStruct((R, row.num_tokens), jnp.int32),
        jax.ShapeDtypeStruct((R, row.num_tokens + row.num_slots), jnp.int32),
        jax.ShapeDtypeStruct((R, S), bool),
    )
    index_1k = row.embedding_index[None]

    def encode(encoder, base, trainable, tokens_Rn, positions_RS, valid_RS):
        mask = PatternMask(valid_RS, pattern)
        return encoder.encode_windows(base, trainable, index_1k, tokens_Rn, positions_RS, mask)

    in_blocks = dataclasses.replace(cast(Any, encoder), decoder=encoder.decoder.clone(attention='structured'))
    executed, blocks = (
        count_flops(functools.partial(encode, each), base, trainable, *arrays) for each in (encoder, in_blocks)
    )
    # Scores and weighted sums: two products of 2 H operations for every pair, head and layer.
    per_pair = 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim
    seen = num_tokens // window * seen_pairs(config, whole.query_cells, whole.key_cells)
    return CompressionFlops(executed, blocks - per_pair * (R * pattern.block_pairs - seen))


def seen_pairs(config: CompressorConfig, query: Cells, key: Cells) -> int:
    """True entries of the mask of these queries and keys, which is never stored."""
    return int(np.asarray(_seen_keys(config, query, key), np.int64).sum())


@functools.partial(jax.jit, static_argnums=0)
def _seen_keys(config: CompressorConfig, query: Cells, key: Cells) -> jax.Array:
    return jnp.sum(sees(config, query[:, None], key[None, :]), axis=1, dtype=jnp.int32)
