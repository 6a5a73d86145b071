"""The rows of the headline experiment as its reports read them, and how they show numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from headline import stored

from pic_jax.evaluation.metrics import bootstrap_interval

QUESTIONS = 12  # on each test context
Row = dict[str, Any]


def rows_of(label: str, ratio: int) -> list[Row]:
    """One row per seed that is stored."""
    return with_fastest([row for row in stored('main') if (row['label'], row['ratio']) == (label, ratio)])


def with_fastest(rows: list[Row]) -> list[Row]:
    """The rows of a method and ratio; each stage with the time of its fastest seed: others may have shared a core."""
    for stages in zip(*(row['stages'] for row in rows), strict=True):
        for stage in stages:
            stage['fastest_seconds'] = min(other['seconds'] for other in stages)
    return rows


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Mean [lowest, highest] over seeds."""
    if not len(values):
        return '-'
    return f'{show(np.mean(values))} [{show(min(values))}, {show(max(values))}]'


def share(x: float) -> str:
    return f'{100 * x:.1f}%'


def points(x: float) -> str:
    return f'{100 * x:+.1f}'


def nats(x: float) -> str:
    return f'{x:.3f}'


class Difference(NamedTuple):
    """Exact match of one method minus another's, as fractions: of every shared seed, the ends of a 95% interval over
    contexts, and relative to the other's (nan where that is 0)."""

    by_seed: np.ndarray
    low: float
    high: float
    relative: float


def minus(label: str, other: str, ratio: int) -> Difference | None:
    """The difference over the seeds that both have; None where there are none.

    The interval resamples contexts with all of their questions, each with its mean over seeds.
    """
    rows, others = ({row['seed']: row for row in rows_of(which, ratio)} for which in (label, other))
    seeds = sorted(set(rows) & set(others))
    if not seeds:
        return None
    ours, theirs = (np.array([marks(found[seed]) for seed in seeds]) for found in (rows, others))
    low, high = bootstrap_interval((ours - theirs).mean(axis=0), 0, contexts(ours.shape[1]))
    relative = ours.mean() / theirs.mean() - 1 if theirs.any() else math.nan
    return Difference((ours - theirs).mean(axis=1), low, high, relative)


def marks(row: Row) -> list[int]:
    """1 or 0 for every test question."""
    return [int(mark) for mark in row['marks']]


def contexts(number: int) -> list[int]:
    """The context of each test question: they come in rows of QUESTIONS."""
    return [index // QUESTIONS for index in range(number)]
