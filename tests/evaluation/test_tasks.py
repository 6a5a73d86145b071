"""Every task in one table: which rows there are, what is counted in which, and that padding rows never are."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pic_jax.api import TrainedCompressor
from pic_jax.cli.main import main
from pic_jax.cli.settings import resolve
from pic_jax.config import default_config
from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation import harness
from pic_jax.evaluation.metrics import bleu_signature, rouge_signature
from pic_jax.run import open_run

METHOD, CONTROLS = 'mean_pool', ['full_context', 'truncate_last_k', 'truncate_first_k', 'shuffled_memory', 'no_context']
LIKELIHOODS = ['nats_per_token', 'gap_share']
METRICS = {
    'reconstruction': ['nats_per_token', 'token_accuracy'],
    'qa': [*LIKELIHOODS, 'em', 'f1', 'rouge1', 'rougeL'],
    'qa_by_position': ['em_q1', 'em_q3'],
    'icl': [*LIKELIHOODS, 'accuracy'],
}
WRITTEN = ['bleu4', 'prefix_em', 'rouge1', 'rougeL']
COUNTS = {'reconstruction': {10}, 'qa': {6}, 'icl': {4}, 'qa_by_position': {4, 2}}


@pytest.fixture(scope='module')
def run(tiny_target, tmp_path_factory):
    """10 questions in batches of 4: 6 about facts in three documents, 4 about two word lists."""
    base = shutil.copytree(tiny_target, tmp_path_factory.mktemp('base') / 'target')
    config = json.loads((base / 'config.json').read_text())
    (base / 'config.json').write_text(json.dumps(config | {'max_position_embeddings': 1024}))  # full_context fits
    settings = {
        'base': str(base), 'data.size': 8, 'data.validation': 1, 'data.test': 5, 'data.seed': 2,
        'data.context_length': 320, 'data.answer_length': 48, 'data.corpus.words': 1,
        'data.corpus.facts_per_context': 5, 'data.corpus.questions': 2, 'data.corpus.word_lists': 0.5,
        'objective.ae': 1.0, 'objective.lm': 0.0, 'objective.ft': 1.0, 'compressor.method': METHOD,
        'compressor.ratio': 8, 'compressor.context_length': 320, 'train.batch_size': 4,
    }  # fmt: skip
    return open_run(resolve(default_config().to_dict(), [f'--config.{key}={value}' for key, value in settings.items()]))


def in_batches_of(run, size):
    train = dataclasses.replace(run.config.train, batch_size=size)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, train=train))


@pytest.mark.slow
def test_eval_prints_a_row_for_every_cell(run, tmp_path, capsys):
    TrainedCompressor(run, run.init_trainable()).save(tmp_path)
    assert main(['eval', f'--workdir={tmp_path}', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = {(task, name, metric) for task in METRICS for name in [METHOD, *CONTROLS] for metric in METRICS[task]}
    expected |= {('reconstruction', METHOD, metric) for metric in WRITTEN}
    assert {(row['task'], row['method'], row['metric']) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        assert list(row) == ['method', 'ratio', 'k', 'task', 'metric', 'value', 'low', 'high', 'n']
        assert row['n'] in COUNTS[row['task']]
        if row['metric'] not in ('gap_share', 'bleu4'):
            assert row['low'] <= row['value'] <= row['high']
    told = {(row['metric'], row['n']) for row in rows if row['task'] == 'qa_by_position'}
    assert told == {('em_q1', 4), ('em_q3', 2)}
    stored = json.loads((tmp_path / 'results.json').read_text())
    assert stored['rows'] == rows
    assert (stored['bleu_signature'], stored['rouge_signature']) == (bleu_signature(), rouge_signature())


@pytest.mark.slow
def test_a_ragged_last_batch_changes_nothing(run):
    """10 examples in batches of 4 (two padding rows) and of 10 (none)."""
    made = {}
    for size in (4, 10):
        rows, answers = harness.evaluate(
            in_batches_of(run, size), run.init_trainable(), harness.held_out(run, 'test'), 10, (METHOD, 'no_context')
        )
        made[size] = {(row.task, row.method, row.metric): row for row in rows}, answers
    assert made[4][1] == made[10][1]
    assert {name: len(texts) for name, texts in made[4][1].items()} == {METHOD: 10, 'no_context': 10}
    assert set(made[4][0]) == set(made[10][0])
    for key, row in made[4][0].items():
        other = made[10][0][key]
        assert (row.n, row.k, row.ratio) == (other.n, other.k, other.ratio)
        found, expected = ((r.value, r.low, r.high) for r in (row, other))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=str(key))


@pytest.mark.slow
def test_a_task_has_its_own_questions_only(run, monkeypatch):
    """All word lists answered right and all facts wrong; k and ratio are those of the task's own contexts."""
    records = harness.held_out(run, 'test')
    texts = [record.golds[0] if record.task == 'icl' else '?' for record in records]
    monkeypatch.setattr(harness, 'answer', lambda *_: texts)
    rows, _ = harness.evaluate(run, run.init_trainable(), records, 10, (METHOD,))
    table = {(row.task, row.metric): row for row in rows}
    for task, metric, value in (('icl', 'accuracy', 1), ('qa', 'em', 0), ('qa', 'rougeL', 0)):
        own = [record for record in records if record.task == task]
        row = table[task, metric]
        assert (row.value, row.low, row.high, row.n) == (value, value, value, len(own))
        lengths = np.array([len(record.context) for record in own])
        assert row.k == pytest.approx(np.ceil(lengths / 8).mean())
        assert row.ratio == pytest.approx(lengths.mean() / row.k)
    scores = harness.score(run, run.init_trainable(), records, (METHOD,), 10)[METHOD]
    for task in ('qa', 'icl'):
        places = [place for place, record in enumerate(records) if record.task == task]
        expected = scores.nats['ft'][places].sum() / scores.tokens['ft'][places].sum()
        assert table[task, 'nats_per_token'].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(('longest', 'room', 'expected'), [(3, 48, 32), (40, 48, 41), (47, 48, 48), (3, 20, 20)])
def test_an_answer_may_be_as_long_as_the_longest_right_one(run, longest, room, expected):
    data = dataclasses.replace(run.config.data, answer_length=room)
    with_room = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    nothing = np.zeros(0, np.int32)
    records = [TokenisedRecord(nothing, nothing, np.ones(n, np.int32), '', ('x',), '') for n in (1, longest, 2)]
    assert harness._answer_budget(with_room, records) == expected
