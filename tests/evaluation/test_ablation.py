"""Members of a group are scored as each would be alone, and controls that no member changes once."""

import dataclasses

import numpy as np
import pytest

from pic_jax.data.examples import TokenisedRecord
from pic_jax.evaluation import ablation, harness, tables
from pic_jax.models.decoder import Decoder

OF_THE_MEMBER = ('icae', 'shuffled_memory')


@pytest.fixture(scope='module')
def members(tiny_config, random_params, bare_run):
    """Two runs of one group: equal but for the seed, and so for their parameters."""
    config = tiny_config()
    data = dict(context_length=8, answer_length=6, min_context=2)
    compressor = dict(method='icae', ratio=4, context_length=8)
    first = bare_run(config, random_params(Decoder(config)), compressor, dict(lm=0.0, ft=1.0), (5, 7), data)
    train = dataclasses.replace(first.config.train, batch_size=4)
    return [dataclasses.replace(first, config=dataclasses.replace(first.config, train=train, seed=seed))
            for seed in (0, 1)]  # fmt: skip


@pytest.fixture(scope='module')
def records():
    rng = np.random.default_rng(3)
    return [
        TokenisedRecord(*(rng.integers(2, 64, n).astype(np.int32) for n in (length, 3, 2)), 'Who?', (str(row),), '')
        for row, length in enumerate((8, 5, 3, 8, 6))
    ]


@pytest.fixture
def answered(monkeypatch):
    """The methods that answered: answers of a word instead of a search, right for every second record."""
    asked = []

    def answer(run, trainable, records, method, limit):
        asked.append((run.config.seed, method))
        return [str(row + row % 2) for row in range(len(records[:limit]))]

    monkeypatch.setattr(harness, 'answer', answer)
    return asked


@pytest.mark.slow
def test_members_have_the_table_of_a_run_by_itself(members, records, answered, monkeypatch):
    whole = [harness.evaluate(run, run.init_trainable(), records, 4) for run in members]
    answered.clear()
    scored, score = [], harness.score

    def counted(run, trainable, records, methods, limit):
        scored.extend((run.config.seed, name) for name in methods)
        return score(run, trainable, records, methods, limit)

    monkeypatch.setattr(harness, 'score', counted)
    first = ablation.evaluate_member(members[0], members[0].init_trainable(), records, 4, None)
    second = ablation.evaluate_member(members[1], members[1].init_trainable(), records, 4, first)

    # Every method once for the group, what depends on the member for the second one too.
    methods = harness.methods_of(members[0])
    expected = {(0, name) for name in methods} | {(1, name) for name in OF_THE_MEMBER}
    for found in (scored, answered):
        assert len(found) == len(expected) == 8
        assert set(found) == expected

    def stored(cells):
        return {(cell['method'], cell['task'], cell['metric']): cell for cell in tables.to_dicts(cells)}

    assert list(stored(first.cells).items()) == list(stored(whole[0][0]).items())  # in this order too
    ours, alone, others = stored(second.cells), stored(whole[1][0]), stored(first.cells)
    assert set(ours) == set(alone) == set(others)
    for key, cell in ours.items():
        if key[0] in OF_THE_MEMBER:
            assert cell == alone[key]
        else:
            assert cell == others[key]
            assert cell['value'] == alone[key]['value']
    for metric in ('nats_per_token', 'gap_share'):
        assert ours['icae', 'qa', metric]['value'] != others['icae', 'qa', metric]['value']
    assert second.answers == whole[1][1]
