"""Trainings that differ in seed, learning rate or first weights only, as one program: `jax.vmap` over the step."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.config import to_mapping
from pic_jax.data.examples import packed
from pic_jax.data.loader import Batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError
from pic_jax.run import Run, check_fits
from pic_jax.training.loop import initial_trainable, make_validation
from pic_jax.training.objectives import compressor_loss
from pic_jax.training.step import init_state, make_ensemble_step
from pic_jax.training.workdir import flat
from pic_jax.training.writers import Record

MEMBER_KEYS = ('seed', 'optimizer.learning_rate', 'start')


class Outcome(NamedTuple):
    """What became of one member.

    trainable: its parameters. curve: validation records by step. error: of a step that was not finite, or None.
    """

    trainable: Any
    curve: list[Record]
    error: str | None


def train_members(runs: Sequence[Run], note: Callable[[str], None]) -> tuple[list[Outcome], float]:
    """Trains runs that share one frozen target together, each with its own first weights and order of the data.

    Validated every `train.eval_every` steps. Nothing is stored: interrupted members start over.

    Args:
      runs: E runs of one target, equal but for MEMBER_KEYS.
      note: takes lines about the progress.

    Returns:
      an outcome per run, and the seconds that all steps took together, without the first, which compiles.

    Raises:
      ConfigError: the runs differ in another key or use data.buckets, or memory and text do not fit the decoder.
      PicJaxError: the data cannot be used.
    """
    first = runs[0]
    check_members(runs)
    check_fits(first)
    config, names = first.config, first.config.objective.names
    records, _ = prepare(config.data, names, first.tokenizer, first.template, first.eos_id, ('train', 'validation'))
    training = packed(records['train'], config.data, first.eos_id)
    batches = [
        Batches(training, config.data, names, run.eos_id, config.train.batch_size, run.config.seed) for run in runs
    ]
    step_all = make_ensemble_step(compressor_loss(first), config.optimizer, config.train)
    peaks_E = jnp.array([run.config.optimizer.learning_rate for run in runs], jnp.float32)
    states_E = stack([init_state(initial_trainable(run), config.optimizer, config.train.steps) for run in runs])
    validate = make_validation(first, records['validation'])
    curves: list[list[Record]] = [[] for _ in runs]
    errors: list[str | None] = [None] * len(runs)

    def validate_all(step: int) -> None:
        for member in range(len(runs)):
            curves[member].append({'step': step} | validate(member_of(states_E.trainable, member)))
        losses = '  '.join(f'{curve[-1]["loss"]:.4f}' for curve in curves)
        note(f'step {step}  validation loss {losses}')

    validate_all(0)
    seconds, started = 0.0, None
    for step in range(1, config.train.steps + 1):
        batch_E = stack([member_batches[step - 1] for member_batches in batches])
        states_E, metrics_E = step_all(peaks_E, states_E, first.base, batch_E)
        finite_E = np.asarray(metrics_E['finite'])  # waits for the step
        if started is not None:
            seconds += time.perf_counter() - started
        for member in np.flatnonzero(finite_E == 0):
            errors[member] = errors[member] or f'step {step}: loss or gradient is not finite'
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


def check_members(runs: Sequence[Run]) -> None:
    """Raises ConfigError where runs differ in more than MEMBER_KEYS, or their batches in shape."""
    first, *others = [flat(to_mapping(run.config)) for run in runs]
    if others and first['data.buckets']:
        raise ConfigError(f'data.buckets={first["data.buckets"]} is not valid: expected none where members share steps')
    for other in others:
        for key in first:
            if key not in MEMBER_KEYS and first[key] != other[key]:
                raise ConfigError(
                    f'{key} is {first[key]} and {other[key]}: expected members that differ in {", ".join(MEMBER_KEYS)}'
                )


def stack(trees: Sequence[Any]) -> Any:
    """Trees of equal shapes as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member_of(tree_E: Any, member: int) -> Any:
    """One member of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[member], tree_E)
