"""Samples of answers: whose they are and how they are marked. Those of reconstructions: test_reconstruction.py."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation import samples


class Words:
    """A tokenizer whose every id is a word."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return ' '.join(f'w{token}' for token in ids)


@pytest.fixture
def run():
    objective = SimpleNamespace(names=('ft',))
    return SimpleNamespace(config=SimpleNamespace(objective=objective), tokenizer=Words())


def record(number: int) -> TokenisedRecord:
    context = np.array([number, number + 1], np.int32)
    return TokenisedRecord(
        context, context[:1], context[1:], f'question {number}', ('The Mill', 'a house'), f'row {number}'
    )


@pytest.mark.parametrize(
    ('records', 'count', 'chosen'),
    [(20, 4, [0, 5, 10, 15]), (5, 4, [0, 1, 2, 3]), (3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (1000, 3, [0, 333, 666])],
)
def test_samples_lie_at_even_distances_and_keep_their_answers(run, records, count, chosen):
    answers = {method: [f'{method} {number}' for number in range(records)] for method in ('pic', 'no_context')}
    found = samples.collect(run, {}, [record(number) for number in range(records)], answers, count)
    assert [sample['source'] for sample in found['answers']] == [f'row {number}' for number in chosen]
    for sample, number in zip(found['answers'], chosen, strict=True):
        assert sample['question'] == f'question {number}'
        assert sample['context'] == f'w{number} w{number + 1}'
        assert {method: said['text'] for method, said in sample['answers'].items()} == {
            'pic': f'pic {number}', 'no_context': f'no_context {number}',
        }  # fmt: skip
    assert found['reconstructions'] == []


def test_answers_are_marked_over_all_gold_answers(run):
    answers = {'a': ['House!'], 'b': ['the mill house'], 'c': ['barn']}
    (sample,) = samples.collect(run, {}, [record(0)], answers)['answers']
    assert sample['golds'] == ['The Mill', 'a house']
    marks = {method: (said['em'], said['f1']) for method, said in sample['answers'].items()}
    assert marks == {'a': (1.0, 1.0), 'b': (0.0, pytest.approx(2 / 3)), 'c': (0.0, 0.0)}
    assert json.loads(json.dumps(sample)) == sample
