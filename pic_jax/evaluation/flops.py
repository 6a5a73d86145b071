"""Floating-point operations, counted on jaxprs: of any function, and of compressing a context."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from pic_jax.compressors.slots import WindowEncoder, parts_of
from pic_jax.config import CompressorConfig
from pic_jax.masks import Cells, make_layout, sees


def count_flops(function: Callable, *args: Any, rounds: int | None = None) -> float:
    """Operations of all matrix products in a function: 2 m n k each, loops of known length unrolled.

    XLA's own cost analysis counts the body of a scan once, whatever its length; this walk multiplies. It is taken
    before compilation: masked attention counts in full, and recomputation under `jax.checkpoint` counts.
    Nothing runs and nothing is allocated.

    Args:
      function: anything that `jax.make_jaxpr` traces. args: arrays or ShapeDtypeStructs.
      rounds: how often a `while_loop` is taken to run.

    Raises:
      ValueError: a `while_loop` has matrix products in it (its length is not known before it runs) and `rounds` is not
        given, or a Pallas kernel is called.
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
    if (name == 'while' and sum(inner)) or name == 'pallas_call':
        raise ValueError(f'cannot count the operations of {name}: expected scans of known length and plain products')
    return sum(inner)


class CompressionFlops(NamedTuple):
    """Operations of the matrix products that compress one context.

    executed: as the encoder computes it, with dense attention in every window or independent chunk. useful: attention
    at True entries of the mask only.
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
    layout, parts = make_layout(config, window), parts_of(config, window)
    R, row = num_tokens // window * len(parts.place), parts.layout
    query, key = (row.cells[part] for part in encoder.sight(row))
    T, S = len(query.kind), len(key.kind)
    arrays = (
        jax.ShapeDtypeStruct((R, row.num_tokens), jnp.int32),
        jax.ShapeDtypeStruct((R, row.num_tokens + row.num_slots), jnp.int32),
        jax.ShapeDtypeStruct((R, T, S), bool),
    )
    index_1k = row.embedding_index[None]
    executed = count_flops(
        lambda base, trainable, *arrays: encoder.encode_windows(base, trainable, index_1k, *arrays),
        base, trainable, *arrays,
    )  # fmt: skip
    # Scores and weighted sums: two products of 2 H operations for every pair, head and layer.
    per_pair = 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim
    seen = num_tokens // window * seen_pairs(config, *(layout.cells[part] for part in encoder.sight(layout)))
    return CompressionFlops(executed, executed - per_pair * (R * T * S - seen))


def seen_pairs(config: CompressorConfig, query: Cells, key: Cells) -> int:
    """True entries of the mask of these queries and keys, which is never stored."""
    return int(np.asarray(_seen_keys(config, query, key), np.int64).sum())


@functools.partial(jax.jit, static_argnums=0)
def _seen_keys(config: CompressorConfig, query: Cells, key: Cells) -> jax.Array:
    return jnp.sum(sees(config, query[:, None], key[None, :]), axis=1, dtype=jnp.int32)
