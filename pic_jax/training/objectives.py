"""Losses of a compressor: autoencoding, continuation, answering and distillation through the frozen decoder, and one
on the memory vectors themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pic_jax.config import ObjectiveConfig
from pic_jax.memory import Memory
from pic_jax.models.cross_entropy import frozen_nats
from pic_jax.models.decoder import Params
from pic_jax.models.inputs import from_tokens, read, word_memory
from pic_jax.models.scoring import Totals, divergence, text_hidden, text_logits, total
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
      name (`ae`, `lm`, `ft`, `distill`, `words`) -> totals.
    """
    weights: ObjectiveConfig = run.config.objective
    memory = run.compressor.compress(base, trainable, batch['context'], batch['context_length'])
    totals, divergences = {}, []
    for name in weights.names:
        tokens_BT, is_target_BT = batch[name]['tokens'], batch[name]['is_target']
        special_D = trainable['special'][name]
        hidden_BTD = text_hidden(run.decoder, base, memory, special_D, run.prefix, tokens_BT)
        totals[name] = total(frozen_nats(run.decoder, base, hidden_BTD, tokens_BT), is_target_BT)
        if weights.distill and name != 'ae':
            logits_BTV: Any = run.decoder.apply({'params': base}, hidden_BTD, method='logits')
            words = word_memory(run.decoder, base, batch['context'], batch['context_length'])
            teacher_BTV = text_logits(run.decoder, base, words, None, run.prefix, tokens_BT)
            divergences.append(divergence(logits_BTV, teacher_BTV, is_target_BT))
    if weights.words:
        totals['words'] = words_totals(run, base, memory, batch['context'], batch['context_length'])
    if divergences:
        totals['distill'] = Totals(*(sum(column) for column in zip(*divergences, strict=True)))
    return totals


def words_totals(run: Run, base: Params, memory: Memory, context_BS: jax.Array, lengths_B: jax.Array) -> Totals:
    """How far each memory vector is from a mixture of the word embeddings of its own tokens.

    Vector j of a memory stands for the r tokens j r .. (j + 1) r - 1. A token weighs its self-information under the
    frozen target (-log p in nats, by which Selective Context, arXiv 2310.06201, keeps tokens); a mixture's weights have
    length 1. Needs no pass of the decoder over memory, so it is a cheap start for the other objectives.

    Returns:
      squared distances over the mean square of the word embeddings, summed per row, [B], and vectors per row, [B].
    """
    S, K = context_BS.shape[1], memory.valid.shape[1]
    embedded: Any = run.decoder.apply({'params': base}, context_BS, method='embed')
    words_BSD = embedded.astype(jnp.float32)
    before_BS = jnp.concatenate([jnp.full_like(context_BS[:, :1], run.prefix[-1]), context_BS[:, :-1]], axis=1)
    before = from_tokens(run.decoder, base, before_BS, lengths_B)
    hidden_BSD, _, _ = read(run.decoder, base, before)
    information_BS = frozen_nats(run.decoder, base, hidden_BSD, context_BS) * before.valid
    own_1KS = (jnp.arange(S)[None] // run.config.compressor.ratio == jnp.arange(K)[:, None])[None]
    weights_BKS = information_BS[:, None] * own_1KS
    weights_BKS /= jnp.linalg.norm(weights_BKS, axis=-1, keepdims=True) + 1e-6
    target_BKD = jax.lax.stop_gradient(jnp.einsum('bks,bsd->bkd', weights_BKS, words_BSD))
    square = jnp.mean(jnp.sum(jnp.asarray(base['embed_tokens']['embedding'], jnp.float32) ** 2, axis=-1))
    distance_BK = jnp.sum((memory.vectors['embeddings'].astype(jnp.float32) - target_BKD) ** 2, axis=-1) / square
    return Totals(jnp.sum(jnp.where(memory.valid, distance_BK, 0), axis=1), jnp.sum(memory.valid, axis=1))


def compressor_loss(run: Run) -> Loss:
    """The loss that the run's objective weights describe."""
    weights = {name: w for name, w in dataclasses.asdict(run.config.objective).items() if w > 0}

    def counts(batch: dict[str, Any]) -> dict[str, jax.Array]:
        tokens: dict[str, Any] = {name: jnp.sum(batch[name]['is_target']) for name in run.config.objective.names}
        if 'distill' in weights:
            tokens['distill'] = sum(value for name, value in tokens.items() if name != 'ae')
        if 'words' in weights:
            tokens['words'] = jnp.sum(-(-batch['context_length'] // run.config.compressor.ratio))
        return tokens

    return Loss(weights, lambda trainable, base, batch: objective_totals(run, trainable, base, batch), counts)
