"""What a method costs beside its quality: operations to compress, bytes to keep, and the wait for the first token."""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from pic_jax.compressors.slots import WindowEncoder
from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.loader import eval_batches
from pic_jax.evaluation.flops import compression_flops
from pic_jax.evaluation.harness import views
from pic_jax.memory import Memory
from pic_jax.models.inputs import from_memory, read
from pic_jax.run import Program, Run

REPEATS = 5
BYTES = 4  # of a float32 of a stored vector, and of an int32 id of a stored text


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one context costs under a method.

    Attributes:
      compression_flops: operations of the encoder on data.context_length tokens, by the run's attention backend; 0
        where none runs.
      stored_bytes: float32 vectors, or int32 ids of a text; mean over contexts.
      first_token_s: median seconds from memory that is ready (or ids) to the first token after the longest context.
    """

    compression_flops: float
    stored_bytes: float
    first_token_s: float


def costs(
    run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], k: Mapping[str, float]
) -> dict[str, Cost]:
    """The costs of each method in `k`: the vectors or tokens that it puts in the context's place, on average."""
    methods, name, program = tuple(k), run.config.objective.names[0], run.program
    longest = max(records, key=lambda record: len(record.context))
    (batch,) = eval_batches([longest], run.config.data, run.config.objective.names, run.eos_id, 1, 1)
    text_1T = batch[name]['tokens'][:, : max(len(longest.question), 1) if name == 'ft' else 1]
    memories = _memories(program, methods, run.base, trainable, batch)
    waits: dict[str, list[float]] = {method: [] for method in methods}
    for repeat in range(REPEATS + 1):
        for method in methods:
            started = time.perf_counter()
            jax.block_until_ready(
                _first_token(program, run.base, memories[method], trainable['special'][name], text_1T)
            )
            if repeat:  # the first one compiles
                waits[method].append(time.perf_counter() - started)
    flops = dict.fromkeys((run.config.compressor.method, 'shuffled_memory'), encoder_flops(run, trainable))
    return {
        method: Cost(
            flops.get(method, 0.0),
            BYTES * k[method] * (_numbers_per_slot(memories[method]) if method in flops else 1),
            statistics.median(waits[method]),
        )
        for method in methods
    }


def _numbers_per_slot(memory: Memory) -> int:
    return sum(math.prod(array.shape[2:]) for array in memory.vectors.values())


def encoder_flops(run: Run, trainable: dict[str, Any]) -> float:
    """Operations on one context of data.context_length tokens, filled up to whole windows as the encoder does."""
    if not hasattr(run.compressor, 'pattern'):  # constant_memory encodes nothing
        return 0.0
    n = run.config.data.context_length
    window = min(run.config.compressor.window or n, n)
    encoder = cast(WindowEncoder, run.compressor)  # what has a pattern is one
    return compression_flops(encoder, run.base, trainable, -(-n // window) * window).executed


@functools.partial(jax.jit, static_argnums=(0, 1))
def _memories(program: Program, methods: tuple[str, ...], base, trainable, batch) -> dict[str, Memory]:
    return {method: view.memory for method, view in views(program, methods, base, trainable, batch).items()}


@functools.partial(jax.jit, static_argnums=0)
def _first_token(program: Program, base, memory: Memory, special_D, text_1T) -> jax.Array:
    """[1] int32: the decoder's first choice after [prefix][memory][special][text]."""
    length_1 = jnp.full(1, text_1T.shape[1])
    inputs = from_memory(program.decoder, base, memory, special_D, program.prefix, text_1T, length_1)
    hidden_1TD, _, _ = read(program.decoder, base, inputs)
    logits_11V: Any = program.decoder.apply({'params': base}, hidden_1TD[:, -1:], method='logits')
    return jnp.argmax(logits_11V[:, 0], axis=-1)
