"""One training step: one optimizer update, gradients with respect to the compressor only."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pic_jax.models.decoder import Params
from pic_jax.run import Run
from pic_jax.training.objectives import objective_totals
from pic_jax.training.optimizer import learning_rate, make_optimizer

Batch = dict[str, Any]
# (trainable, frozen, batch) -> {objective: Totals}
TotalsFn = Callable[[Any, Any, Batch], dict[str, Any]]


class TrainState(NamedTuple):
    """step: int32 number of updates done; trainable: float32 parameters; opt_state: optax's."""

    step: jax.Array
    trainable: Any
    opt_state: Any


def make_loss(run: Run) -> tuple[TotalsFn, dict[str, float]]:
    """The run's objectives as a pure function, and their weights."""
    weights = {name: w for name, w in dataclasses.asdict(run.config.objective).items() if w > 0}
    return lambda trainable, base, batch: objective_totals(run, trainable, base, batch), weights


def init_state(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.int32(0), trainable, optimizer.init(trainable))


def make_train_step(run: Run) -> Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The run's jitted step; the state is donated.

    loss = sum over objectives of weight * (sum of nats / sum of target tokens), both sums over all microbatches. An
    update whose loss or gradient is not finite is discarded inside the step.

    Returns:
      (state, frozen base, batch) -> (state, metrics): float32 scalars `loss`, `grad_norm` (before clipping),
      `learning_rate`, `finite` (1 or 0), and per objective `<name>_nats` (per target token) and `<name>_tokens`.
    """
    totals_fn, weights = make_loss(run)
    config = run.config
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    schedule = learning_rate(config.optimizer, config.train.steps)

    def step(state: TrainState, base: Params, batch: Batch):
        nats, tokens, grads = accumulate(totals_fn, weights, state.trainable, base, batch, config.train.microbatches)
        per_token = {name: nats[name] / jnp.maximum(tokens[name], 1) for name in nats}
        loss = sum(weights[name] * per_token[name] for name in per_token)
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        updated = TrainState(state.step + 1, optax.apply_updates(state.trainable, updates), opt_state)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        metrics = {'loss': loss, 'grad_norm': grad_norm, 'learning_rate': schedule(state.step), 'finite': finite}
        metrics |= {f'{name}_nats': value for name, value in per_token.items()}
        metrics |= {f'{name}_tokens': value for name, value in tokens.items()}
        return kept, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return jax.jit(step, donate_argnums=0)


def accumulate(
    totals_fn: TotalsFn, weights: dict[str, float], trainable: Any, frozen: Any, batch: Batch, microbatches: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
    """Totals and gradients of a batch, one microbatch at a time.

    Returns:
      summed nats and target tokens per objective, and the gradient of
      sum(weight * nats / tokens) with the token counts of the whole batch.
    """
    counts = _target_counts(batch)
    tokens = {name: counts['lm'] + counts['ft'] if name == 'distill' else counts[name] for name in weights}

    def loss_fn(trainable, part):
        totals = totals_fn(trainable, frozen, part)
        nats = {name: jnp.sum(totals[name].nats) for name in weights}
        return sum(weights[name] * nats[name] / jnp.maximum(tokens[name], 1) for name in weights), nats

    def add(carry, part):
        (_, nats), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, part)
        return jax.tree.map(jnp.add, carry, (nats, grads)), None

    parts = jax.tree.map(lambda x: x.reshape(microbatches, x.shape[0] // microbatches, *x.shape[1:]), batch)
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    start = (dict.fromkeys(weights, jnp.float32(0)), zeros)
    (nats, grads), _ = jax.lax.scan(add, start, parts)
    return nats, tokens, grads


def _target_counts(batch: Batch) -> dict[str, jax.Array]:
    """Target tokens of each objective in the batch; 0 where it has no targets."""
    return {name: jnp.sum(batch[name]['is_target']) if name in batch else jnp.int32(0) for name in ('ae', 'lm', 'ft')}
