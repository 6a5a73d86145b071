"""Twenty steps of every method give the stored losses and gradient norms (benchmarks/golden.py makes them).

The tolerance is at least `MARGIN` times the largest difference that benchmarks/golden_spread.py measured without any
change of the code: other instructions, optimisations, threads, devices, attention and recomputation.
"""

import functools
import itertools

import golden
import golden_spread
import optax
import pytest

from pic_jax.files import read_json

TOLERANCE = {'loss': 1e-4, 'grad_norm': 1e-3}
MARGIN = 5
FAST = ('pic',)
STORED = read_json(golden.STORED)['cases']


def too_far(found, wanted) -> set[str]:
    """The metrics that are further off than the tolerance."""
    return {metric for metric, far in golden.farthest(found, wanted).items() if not far <= TOLERANCE[metric]}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in golden.CASES]
)
def test_twenty_steps_give_the_stored_metrics(name):
    assert not too_far(golden.metrics(name), STORED[name])


def test_every_case_is_stored_and_no_two_are_alike():
    assert list(STORED) == list(golden.CASES)
    for name, values in STORED.items():
        assert {len(values[metric]) for metric in golden.METRICS} == {golden.STEPS}
        assert all(too_far(values, other) == set(golden.METRICS) for key, other in STORED.items() if key != name)


@pytest.mark.parametrize('metric', golden.METRICS)
def test_a_metric_that_is_no_number_shows(metric):
    wanted = STORED['pic']
    assert too_far(wanted | {metric: [*wanted[metric][:-1], float('nan')]}, wanted) == {metric}


def test_the_tolerance_covers_what_was_measured():
    rows = read_json(golden_spread.RESULTS)['rows']
    rows = [row for row in rows if row['variation'] != golden_spread.LOW]
    every = itertools.product(golden_spread.VARIATIONS.keys() - {golden_spread.LOW}, golden_spread.FEW)
    assert sorted((row['variation'], row['case']) for row in rows) == sorted(every)
    for metric in golden.METRICS:
        assert all(MARGIN * row[metric] <= TOLERANCE[metric] for row in rows)


@pytest.mark.slow
def test_the_same_run_twice_has_the_same_bits():
    assert golden.metrics('pic') == golden.metrics('pic')


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        'optimizer.warmup_steps=5',
        'optimizer.learning_rate=1.01e-3',
        'optimizer.b2=0.951',
        'compressor.memory_sees_memory=previous',
        'compressor.positions=end',
    ],
)
def test_a_small_change_shows(change):
    assert too_far(golden.metrics('pic', change), STORED['pic'])


@pytest.mark.slow
def test_another_epsilon_of_adam_shows(monkeypatch):
    monkeypatch.setattr(optax, 'adamw', functools.partial(optax.adamw, eps=1e-5))
    assert too_far(golden.metrics('pic'), STORED['pic'])
