"""Losses of a compressor through the frozen decoder: autoencoding, continuation, answering, distillation."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.config import ObjectiveConfig
from pic_jax.models.decoder import Params
from pic_jax.models.inputs import word_memory
from pic_jax.models.scoring import Totals, divergence, nll, text_logits
from pic_jax.run import Run


class Loss(NamedTuple):
    """What a training step minimises: sum over objectives of weight * (summed nats / summed target tokens).

    weights: {objective: weight}. totals: (trained, frozen, batch) -> {objective: Totals}.
    counts: batch -> {objective: target tokens in it}.
    """

    weights: dict[str, float]
    totals: Callable[[Any, Any, dict[str, Any]], dict[str, Totals]]
    counts: Callable[[dict[str, Any]], dict[str, jax.Array]]


def objective_totals(run: Run, trainable: dict[str, Any], base: Params, batch: dict[str, Any]) -> dict[str, Totals]:
    """Every objective of the run on one batch; all share one encoder pass.

    Args:
      batch: as `data.loader.Batches` makes it.

    Returns:
      name (`ae`, `lm`, `ft`, `distill`) -> totals.
    """
    weights: ObjectiveConfig = run.config.objective
    memory = run.compressor.compress(base, trainable, batch['context'], batch['context_length'])
    totals, divergences = {}, []
    for name in weights.names:
        tokens_BT, is_target_BT = batch[name]['tokens'], batch[name]['is_target']
        special_D = trainable['special'][name]
        logits_BTV = text_logits(run.decoder, base, memory, special_D, run.prefix, tokens_BT)
        totals[name] = nll(logits_BTV, tokens_BT, is_target_BT)
        if weights.distill and name != 'ae':
            words = word_memory(run.decoder, base, batch['context'], batch['context_length'])
            teacher_BTV = text_logits(run.decoder, base, words, None, run.prefix, tokens_BT)
            divergences.append(divergence(logits_BTV, teacher_BTV, is_target_BT))
    if divergences:
        totals['distill'] = Totals(*(sum(column) for column in zip(*divergences, strict=True)))
    return totals


def compressor_loss(run: Run) -> Loss:
    """The loss that the run's objective weights describe."""
    weights = {name: w for name, w in dataclasses.asdict(run.config.objective).items() if w > 0}

    def counts(batch: dict[str, Any]) -> dict[str, jax.Array]:
        tokens = {name: jnp.sum(batch[name]['is_target']) for name in run.config.objective.names}
        if 'distill' in weights:
            tokens['distill'] = sum(value for name, value in tokens.items() if name != 'ae')
        return tokens

    return Loss(weights, lambda trainable, base, batch: objective_totals(run, trainable, base, batch), counts)
