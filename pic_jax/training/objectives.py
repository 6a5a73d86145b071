"""Losses of a compressor through the frozen decoder: autoencoding, continuation, answering, distillation."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.config import ObjectiveConfig
from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder, Params
from pic_jax.models.inputs import causal_mask, from_memory, last_valid, word_memory
from pic_jax.run import Run


class Loss(NamedTuple):
    """What a training step minimises: sum over objectives of weight * (summed nats / summed target tokens).

    weights: {objective: weight}. totals: (trained, frozen, batch) -> {objective: Totals}.
    counts: batch -> {objective: target tokens in it}.
    """

    weights: dict[str, float]
    totals: Callable[[Any, Any, dict[str, Any]], dict[str, 'Totals']]
    counts: Callable[[dict[str, Any]], dict[str, jax.Array]]


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
    """[B, T, V] float32 logits that predict each text token from what stands before it.

    Token 0 is predicted at the last valid position before the text: the special vector where there is one.
    """
    T = tokens_BT.shape[1]
    inputs = from_memory(decoder, base, memory, special_D, prefix, tokens_BT, jnp.full(tokens_BT.shape[0], T))
    hidden_BSD, _ = decoder.apply({'params': base}, inputs.x, inputs.positions, causal_mask(inputs.valid))
    last_B = last_valid(inputs.valid[:, :-T])
    first_B1D = jnp.take_along_axis(hidden_BSD, last_B[:, None, None], axis=1)
    hidden_BTD = jnp.concatenate([first_B1D, hidden_BSD[:, -T:-1]], axis=1)
    return decoder.apply({'params': base}, hidden_BTD, method='logits')


def nll(logits_BTV: jax.Array, tokens_BT: jax.Array, is_target_BT: jax.Array) -> Totals:
    """Negative log likelihood of the target tokens, in nats."""
    log_probs_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
    chosen_BT = jnp.take_along_axis(log_probs_BTV, tokens_BT[..., None], axis=-1)[..., 0]
    return Totals(-jnp.sum(jnp.where(is_target_BT, chosen_BT, 0), axis=1), jnp.sum(is_target_BT, axis=1))


def divergence(student_BTV: jax.Array, teacher_BTV: jax.Array, is_target_BT: jax.Array) -> Totals:
    """KL(teacher || student) at the positions that predict target tokens, in nats."""
    teacher_BTV, student_BTV = jax.nn.log_softmax(teacher_BTV), jax.nn.log_softmax(student_BTV)
    kl_BT = jnp.sum(jnp.exp(teacher_BTV) * (teacher_BTV - student_BTV), axis=-1)
    return Totals(jnp.sum(jnp.where(is_target_BT, kl_BT, 0), axis=1), jnp.sum(is_target_BT, axis=1))


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
