"""Recall by the quarter of the context in which the answer is told."""

import dataclasses

import numpy as np
import pytest

from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation import harness
from pic_jax.evaluation.tables import to_text
from pic_jax.models.decoder import Decoder

# Where each answer is told, and whether it is answered. None: a record that does not say where.
PLACES = (0.0, 0.2499, 0.25, 0.6, 0.5, 1.0, None)
RIGHT = (True, False, True, False, False, True, True)


@pytest.fixture(scope='module')
def run(tiny_config, random_params, bare_run):
    config = tiny_config()
    made = bare_run(
        config, random_params(Decoder(config)), dict(method='icae', ratio=4, context_length=8), dict(ft=1.0, lm=0.0),
        (5, 7), dict(context_length=8, min_context=2, answer_length=8),
    )  # fmt: skip
    train = dataclasses.replace(made.config.train, batch_size=4)
    return dataclasses.replace(made, config=dataclasses.replace(made.config, train=train))


def questions(places) -> list[TokenisedRecord]:
    rng = np.random.default_rng(3)

    def ids(n):
        return rng.integers(2, 64, n).astype(np.int32)

    return [
        TokenisedRecord(ids(8), ids(3), ids(2), 'who?', ('Ann',), f'row {row}', place)
        for row, place in enumerate(places)
    ]


def by_position(run, places, right, monkeypatch):
    texts = ['Ann' if is_right else 'Bob' for is_right in right]
    monkeypatch.setattr(harness, 'answer', lambda run, trainable, records, method, limit: texts[: len(records)])
    rows, _ = harness.evaluate(run, run.init_trainable(), questions(places), 100)
    return rows, {(row.method, row.metric): row for row in rows if row.task == 'qa_by_position'}


@pytest.mark.slow
def test_every_answered_method_has_a_row_for_each_quarter(run, monkeypatch):
    rows, table = by_position(run, PLACES, RIGHT, monkeypatch)
    methods = harness.methods_of(run)
    assert list(table) == [(method, f'em_q{quarter}') for method in methods for quarter in (1, 2, 3, 4)]
    for method in methods:
        cells = [table[method, f'em_q{quarter}'] for quarter in (1, 2, 3, 4)]
        assert [(row.value, row.n) for row in cells] == [(0.5, 2), (1, 1), (0, 2), (1, 1)]
        assert all(row.low <= row.value <= row.high for row in cells)
    whole = next(row for row in rows if (row.method, row.metric) == ('icae', 'em'))
    assert (whole.task, whole.n, whole.value) == ('qa', 7, pytest.approx(4 / 7))
    first, second = to_text(rows).split('\n\n')
    assert 'EM, ' not in first
    assert 'qa_by_position' not in first
    assert [line.split()[0] for line in second.splitlines()] == ['task'] + ['qa_by_position'] * len(methods)
    assert second.splitlines()[1].split()[:4] == ['qa_by_position', 'icae', '4.0x', '2']


def test_quarters_without_questions_and_records_without_places_have_no_row(run, monkeypatch):
    _, table = by_position(run, (0.9, None, 0.8), (True, True, False), monkeypatch)
    assert {metric for _, metric in table} == {'em_q4'}
    _, table = by_position(run, (None, None), (True, False), monkeypatch)
    assert table == {}
