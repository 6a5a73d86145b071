"""The decoder's ceiling: k free vectors fitted to each test context by gradient, with no encoder in the way."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation.harness import Scores, batches_of
from pic_jax.models.inputs import word_memory
from pic_jax.models.scoring import divergence, text_logits, token_nats
from pic_jax.run import Program, Run


def optimised_memory(
    run: Run,
    trainable: dict[str, Any],
    records: Sequence[TokenisedRecord],
    objective: str,
    limit: int,
    steps: int = 300,
    learning_rate: float = 0.03,
) -> Scores:
    """Scores memories that were fitted, one per example, to give the full context's predictions on that example.

    The vectors start as the compressor's memory and follow the gradient of KL(full context || memory) on the targets
    themselves, so this is what k vectors can make this decoder say, not what can be known from the context alone.
    A record with many questions (`data.examples.packed`) has one memory for all of them.

    Args:
      objective: `lm` or `ft`.

    Returns:
      one entry per stretch of targets: per example for `lm`, per answer for `ft`.
    """
    parts = []
    for batch in batches_of(run, records, limit):
        fitted = _fit(run.program, objective, steps, learning_rate, run.base, trainable, batch)
        nats_BT, right_BT, k_B = jax.tree.map(np.asarray, fitted)
        is_target_BT = np.asarray(batch[objective]['is_target'])
        for row in np.flatnonzero(batch['index'] >= 0):
            places = np.flatnonzero(is_target_BT[row])
            for stretch in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                parts.append((nats_BT[row, stretch].sum(), len(stretch), right_BT[row, stretch].sum(), k_B[row]))
    nats, tokens, hit, k = (np.array(column) for column in zip(*parts, strict=True))
    return Scores({objective: nats}, {objective: tokens}, {objective: hit}, k)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(program: Program, objective: str, steps: int, learning_rate: float, base, trainable, batch):
    tokens_BT, is_target_BT = batch[objective]['tokens'], batch[objective]['is_target']
    start = program.compressor.compress(base, trainable, batch['context'], batch['context_length'])
    words = word_memory(program.decoder, base, batch['context'], batch['context_length'])
    teacher_BTV = text_logits(program.decoder, base, words, None, program.prefix, tokens_BT)
    special_D = trainable['special'][objective]

    def logits(vectors: dict[str, jax.Array]) -> jax.Array:
        memory = dataclasses.replace(start, **vectors)
        return text_logits(program.decoder, base, memory, special_D, program.prefix, tokens_BT)

    def loss(vectors: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(divergence(logits(vectors), teacher_BTV, is_target_BT).nats)

    # Adam scales every number by itself, so fitting the batch at once fits each context alone.
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(state, _):
        updates, opt_state = optimizer.update(jax.grad(loss)(state[0]), state[1])
        return (optax.apply_updates(state[0], updates), opt_state), None

    (vectors, _), _ = jax.lax.scan(step, (start.vectors, optimizer.init(start.vectors)), length=steps)
    logits_BTV = logits(vectors)
    return token_nats(logits_BTV, tokens_BT), jnp.argmax(logits_BTV, axis=-1) == tokens_BT, start.lengths
