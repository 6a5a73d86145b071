"""Floating-point operations of a function, counted on its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params


def count_flops(function: Callable, *args: Any) -> float:
    """Operations of all matrix products in a function: 2 m n k each, loops of known length unrolled.

    XLA's own cost analysis counts the body of a scan once, whatever its length; this walk multiplies. It is taken
    before compilation: masked attention counts in full, and recomputation under `jax.checkpoint` counts.
    Nothing runs and nothing is allocated.

    Args:
      function: anything that `jax.make_jaxpr` traces. args: arrays or ShapeDtypeStructs.

    Raises:
      ValueError: a `while_loop` has matrix products in it (its length is not known before it runs), or a Pallas
        kernel is called.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(params)]
    if name == 'scan':
        return params['length'] * sum(inner)
    if name == 'cond':
        return max(inner)
    if (name == 'while' and sum(inner)) or name == 'pallas_call':
        raise ValueError(f'cannot count the operations of {name}: expected scans of known length and plain products')
    return sum(inner)
