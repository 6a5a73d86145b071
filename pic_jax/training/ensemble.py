"""Trainings that differ in seed, learning rate or first weights only, as one program: `jax.vmap` over the step."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pic_jax.config import RunConfig, to_mapping
from pic_jax.data.examples import packed
from pic_jax.data.loader import Batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError
from pic_jax.run import Run, check_fits
from pic_jax.training.objectives import compressor_loss
from pic_jax.training.ratios import drawn_ratios, nested_losses
from pic_jax.training.start import initial_trainable
from pic_jax.training.step import TrainState, init_state, make_ensemble_step
from pic_jax.training.validation import make_validation
from pic_jax.training.workdir import flat
from pic_jax.training.writers import Record, not_finite

MEMBER_KEYS = ('seed', 'optimizer.learning_rate', 'start')


def member_keys(config: RunConfig) -> tuple[str, ...]:
    """What members may differ in: not the seed where it draws a ratio, and so a program, for every step."""
    return MEMBER_KEYS[1:] if config.compressor.ratios else MEMBER_KEYS


class Outcome(NamedTuple):
    """What became of one member.

    trainable: its parameters. curve: validation records by step. error: None, or what was not finite first: a
    validation, or a step after train.max_skipped_steps others.
    """

    trainable: Any
    curve: list[Record]
    error: str | None


def train_members(runs: Sequence[Run], note: Callable[[str], None]) -> tuple[list[Outcome], float]:
    """Trains runs that share one frozen target together, each with its own first weights and order of the data.

    Validated every `train.eval_every` steps. Nothing is stored: interrupted members start over.

    Args:
      runs: E runs of one target, equal but for `member_keys`.
      note: takes lines about the progress.

    Returns:
      an outcome per run, and the seconds that all steps took together, without those that compiled.

    Raises:
      ConfigError: the runs differ in another key, use data.buckets or more than one device, or memory and text do not
        fit the decoder.
      PicJaxError: the data cannot be used.
    """
    first = runs[0]
    check_members(runs)
    check_fits(first)
    config, names = first.config, first.config.objective.names
    settings = first.tokenizer, first.template, first.eos_id, first.vocab_size
    records, _ = prepare(config.data, names, *settings, ('train', 'validation'))
    training = packed(records['train'], config.data, first.eos_id)
    batches = [
        Batches(training, config.data, names, run.eos_id, config.train.batch_size, run.config.seed) for run in runs
    ]
    losses = nested_losses(first) or {0: compressor_loss(first)}
    steps_all = {ratio: make_ensemble_step(loss, config.optimizer, config.train) for ratio, loss in losses.items()}
    peaks_E, states_E = _initial(runs)
    validate = make_validation(first, records['validation'])
    curves: list[list[Record]] = [[] for _ in runs]
    errors: list[str | None] = [None] * len(runs)
    limit = config.train.max_skipped_steps

    def validate_all(step: int) -> None:
        for member in range(len(runs)):
            record = {'step': step} | validate(member_of(states_E.trainable, member))
            curves[member].append(record)
            errors[member] = errors[member] or not_finite(record)
        losses = '  '.join(f'{curve[-1]["loss"]:.4f}' for curve in curves)
        note(f'step {step}  validation loss {losses}')

    validate_all(0)
    seconds, started, compiled = 0.0, time.perf_counter(), set()
    for step, ratio in enumerate(drawn_ratios(tuple(losses), config.seed, range(config.train.steps)), 1):
        batch_E = stack([member_batches[step - 1] for member_batches in batches])
        states_E, metrics_E = steps_all[ratio](peaks_E, states_E, first.base, batch_E)
        skipped_E = step - np.asarray(metrics_E['updates'], np.int64)  # waits for the step
        if ratio in compiled:
            seconds += time.perf_counter() - started
        compiled.add(ratio)
        for member in np.flatnonzero(skipped_E > limit):
            errors[member] = errors[member] or (
                f'step {step}: loss or gradient is not finite ({skipped_E[member]} so far, '
                f'train.max_skipped_steps={limit})'
            )
        if all(errors):
            break
        if step == config.train.steps or step % config.train.eval_every == 0:
            validate_all(step)
        started = time.perf_counter()
    outcomes = [
        Outcome(member_of(states_E.trainable, member), curve, error)
        for member, (curve, error) in enumerate(zip(curves, errors, strict=True))
    ]
    return outcomes, seconds


def _initial(runs: Sequence[Run]) -> tuple[jax.Array, TrainState]:
    """[E] learning rates, and the states before the first step."""
    config = runs[0].config
    peaks_E = jnp.array([run.config.optimizer.learning_rate for run in runs], jnp.float32)
    states_E = stack([init_state(initial_trainable(run), config.optimizer, config.train.steps) for run in runs])
    # Where the step leaves them: it would be compiled again for states that lie elsewhere.
    return jax.device_put((peaks_E, states_E), NamedSharding(runs[0].mesh, PartitionSpec()))


def check_members(runs: Sequence[Run]) -> None:
    """Refuses what cannot be trained together.

    Raises:
      ConfigError: the runs differ in more than `member_keys`, their batches in shape, or ask for several devices.
    """
    first, *others = [flat(to_mapping(run.config)) for run in runs]
    keys = member_keys(runs[0].config)
    for name, size in dataclasses.asdict(runs[0].config.mesh).items():
        if size != 1 and (name, size) != ('data', -1):  # which is the default
            raise ConfigError(f'mesh.{name}={size} is not valid: expected 1, as members share one device')
    if others and first['data.buckets']:
        raise ConfigError(f'data.buckets={first["data.buckets"]} is not valid: expected none where members share steps')
    for other in others:
        for key in first:
            if key not in keys and first[key] != other[key]:
                why = ' (the seed draws the ratio of every step)' if key == 'seed' else ''
                raise ConfigError(
                    f'{key} is {first[key]} and {other[key]}: expected members that differ in {", ".join(keys)}{why}'
                )


def stack(trees: Sequence[Any]) -> Any:
    """Trees of equal shapes as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member_of(tree_E: Any, member: int) -> Any:
    """One member of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[member], tree_E)
