"""One training step: one optimizer update, gradients with respect to the trained parameters only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pic_jax.config import OptimizerConfig, TrainConfig
from pic_jax.models.partitioning import constrain
from pic_jax.training.objectives import Loss
from pic_jax.training.optimizer import learning_rate, make_optimizer

Batch = dict[str, Any]
StepFn = Callable[['TrainState', Any, Batch], tuple['TrainState', dict[str, jax.Array]]]


class TrainState(NamedTuple):
    """step: int32 number of updates done; trainable: float32 parameters; opt_state: optax's."""

    step: jax.Array
    trainable: Any
    opt_state: Any


def init_state(trainable: Any, optimizer: OptimizerConfig, steps: int) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.int32(0), trainable, make_optimizer(optimizer, steps).init(trainable))


def make_train_step(loss: Loss, optimizer_config: OptimizerConfig, config: TrainConfig, places: Any = None) -> StepFn:
    """`update` at the configured learning rate, jitted; the state is donated.

    Args:
      places: shardings of the state (sharding.shardings), which the new state keeps; None leaves them to the compiler.
    """

    def step(state: TrainState, frozen: Any, batch: Batch):
        return update(loss, optimizer_config, config, optimizer_config.learning_rate, state, frozen, batch)

    return jax.jit(step, donate_argnums=0, out_shardings=None if places is None else (places, None))


def make_ensemble_step(loss: Loss, optimizer_config: OptimizerConfig, config: TrainConfig) -> Callable[..., Any]:
    """(peaks [E], states, frozen parameters, batches) -> (states, metrics): `update` of E members in one program.

    Every leaf of states, batches and metrics has a leading axis E; the frozen parameters are shared. The states are
    donated.
    """

    def step(peak: jax.Array, state: TrainState, frozen: Any, batch: Batch):
        return update(loss, optimizer_config, config, peak, state, frozen, batch)

    return jax.jit(jax.vmap(step, in_axes=(0, 0, None, 0)), donate_argnums=1)


def update(
    loss: Loss,
    optimizer_config: OptimizerConfig,
    config: TrainConfig,
    peak: jax.typing.ArrayLike,
    state: TrainState,
    frozen: Any,
    batch: Batch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update at the learning rate `peak`, which the schedule shapes.

    loss = sum over objectives of weight * (sum of nats / sum of target tokens), both sums over all microbatches. An
    update whose loss or gradient is not finite is discarded inside the step.

    Returns:
      the state, and metrics: float32 scalars `loss`, `grad_norm` (before clipping),
      `learning_rate`, `finite` (1 or 0), `updates` (done, with this one), and per objective
      `<name>_nats` (per target token) and `<name>_tokens`.
    """
    optimizer = make_optimizer(optimizer_config, config.steps, peak)
    schedule = learning_rate(optimizer_config, config.steps, peak)
    nats, tokens, grads = accumulate(loss, state.trainable, frozen, batch, config.microbatches)
    per_token = {name: nats[name] / jnp.maximum(tokens[name], 1) for name in nats}
    total = sum(loss.weights[name] * per_token[name] for name in per_token)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    updated = TrainState(state.step + 1, optax.apply_updates(state.trainable, updates), opt_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    metrics = {'loss': total, 'grad_norm': grad_norm, 'learning_rate': schedule(state.step), 'finite': finite}
    metrics['updates'] = kept.step
    metrics |= {f'{name}_nats': value for name, value in per_token.items()}
    metrics |= {f'{name}_tokens': value for name, value in tokens.items()}
    return kept, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def accumulate(
    loss: Loss, trainable: Any, frozen: Any, batch: Batch, microbatches: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Any]:
    """Totals and gradients of a batch, one microbatch at a time.

    Microbatch j has the rows j, j + microbatches, ...: each is spread over the devices as the batch is.

    Returns:
      summed nats and target tokens per objective, and the gradient of
      sum(weight * nats / tokens) with the token counts of the whole batch.
    """
    tokens = loss.counts(batch)

    def loss_fn(trainable, part):
        totals = loss.totals(trainable, frozen, part)
        nats = {name: jnp.sum(totals[name].nats) for name in loss.weights}
        return sum(w * nats[name] / jnp.maximum(tokens[name], 1) for name, w in loss.weights.items()), nats

    def add(carry, part):
        (_, nats), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, part)
        return jax.tree.map(jnp.add, carry, (nats, grads)), None

    def split(x: jax.Array) -> jax.Array:
        parts = jnp.moveaxis(x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]), 1, 0)
        return constrain(parts, 'microbatches', 'batch', *('length',) * (x.ndim - 1))

    parts = jax.tree.map(split, batch)
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    start = (dict.fromkeys(loss.weights, jnp.float32(0)), zeros)
    (nats, grads), _ = jax.lax.scan(add, start, parts)
    return nats, tokens, grads
