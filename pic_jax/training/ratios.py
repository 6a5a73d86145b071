"""Nested training: every step draws one of the compressor's ratios and minimises the loss there."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.nested import trainable_at
from pic_jax.run import Run
from pic_jax.training.objectives import Loss, compressor_loss


def drawn_ratios(ratios: Sequence[int], seed: int, steps: Sequence[int]) -> np.ndarray:
    """[n] the ratio of each step, uniform over `ratios`: a pure function of (seed, step).

    Args:
      steps: counted from 0, as batches are.
    """

    if len(ratios) == 1:
        return np.full(len(steps), ratios[0])

    def draw(step: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(jax.random.key(seed), step), (), 0, len(ratios))

    return np.asarray(ratios)[np.asarray(jax.vmap(draw)(jnp.asarray(steps, jnp.int32)))]


def nested_losses(run: Run) -> dict[int, Loss]:
    """{ratio: loss there, of the weights of the whole compressor}; empty where it has one ratio.

    Weights that a ratio does not use have gradients of exactly 0.
    """
    return {ratio: _loss_at(run, ratio) for ratio in run.config.compressor.ratios}


def _loss_at(run: Run, ratio: int) -> Loss:
    loss = compressor_loss(run.at_ratio(ratio))

    def totals(trainable, base, batch):
        return loss.totals(trainable_at(run.config.compressor, trainable, ratio), base, batch)

    return loss._replace(totals=totals)
