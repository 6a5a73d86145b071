"""Members of an ensemble are the trainings that they would be alone."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from pic_jax.cli.settings import load_file, resolve
from pic_jax.errors import ConfigError
from pic_jax.evaluation.plots import read_metrics
from pic_jax.run import open_run
from pic_jax.training.ensemble import check_members, train_members
from pic_jax.training.train import train

STEPS = 50


@pytest.fixture(scope='module')
def make_run(tiny_config_file):
    """A function from a seed and a learning rate to a run; all share one loaded target."""
    words = [f'--config.train.steps={STEPS}', '--config.train.eval_every=25']
    config = resolve(load_file(str(tiny_config_file)), words)
    first = open_run(config)

    def make(seed, rate):
        optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
        settings = dataclasses.replace(first.config, seed=seed, optimizer=optimizer)
        return dataclasses.replace(first, config=settings)

    return make


@pytest.mark.slow
def test_members_equal_separate_runs(make_run, tmp_path):
    runs = [make_run(0, 3e-3), make_run(7, 3e-3), make_run(7, 1e-3)]
    outcomes, seconds = train_members(runs, lambda line: None)
    assert seconds > 0
    for number, (run, outcome) in enumerate(zip(runs, outcomes, strict=True)):
        alone = train(run, tmp_path / str(number))
        assert outcome.error is None
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), outcome.trainable, alone)
        records = [r for r in read_metrics(tmp_path / str(number) / 'metrics.jsonl') if r['split'] == 'validation']
        assert [record['step'] for record in outcome.curve] == [0, 25, 50]
        for ours, theirs in zip(outcome.curve, records, strict=True):
            assert ours['loss'] == pytest.approx(theirs['loss'], abs=1e-4)
    # What tells them apart is not lost.
    ends = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(outcome.trainable)]) for outcome in outcomes]
    assert min(np.abs(ends[0] - ends[1]).max(), np.abs(ends[1] - ends[2]).max()) > 1e-2


@pytest.mark.slow
def test_one_program_serves_all_members(make_run, monkeypatch):
    from pic_jax.training import ensemble

    sizes = []
    made = ensemble.make_ensemble_step

    def counted(*args):
        step = made(*args)

        def run(*inputs):
            result = step(*inputs)
            sizes.append(step._cache_size())
            return result

        return run

    monkeypatch.setattr(ensemble, 'make_ensemble_step', counted)
    train_members([make_run(0, 1e-2), make_run(1, 1e-2)], lambda line: None)
    assert sizes == [1] * STEPS


@pytest.mark.slow
def test_a_member_that_diverges_is_named_and_the_others_go_on(make_run):
    outcomes, _ = train_members([make_run(0, 1e-2), make_run(1, 1e30)], lambda line: None)
    assert outcomes[0].error is None
    assert 'is not finite' in outcomes[1].error
    (alone,), _ = train_members([make_run(0, 1e-2)], lambda line: None)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), outcomes[0].trainable, alone.trainable)


@pytest.mark.slow
def test_a_member_may_skip_as_many_steps_as_a_run(make_run):
    def with_limit(limit):
        run = make_run(1, 1e30)
        train = dataclasses.replace(run.config.train, steps=4, max_skipped_steps=limit)
        return dataclasses.replace(run, config=dataclasses.replace(run.config, train=train))

    (strict,), _ = train_members([with_limit(0)], lambda line: None)
    assert strict.error == 'step 3: loss or gradient is not finite (1 so far, train.max_skipped_steps=0)'
    # Two updates are skipped, as many as may be; the weights before them are no good either.
    (patient,), _ = train_members([with_limit(2)], lambda line: None)
    assert re.fullmatch(r'step 4: \w+ of the validation is nan', patient.error)


@pytest.mark.parametrize('size', [8, -1])
def test_members_share_one_device(make_run, size):
    run = make_run(0, 1e-2)
    mesh = dataclasses.replace(run.config.mesh, data=1, fsdp=size)
    with pytest.raises(ConfigError, match=r'mesh\.fsdp=.* is not valid: expected 1, as members share one device'):
        check_members([dataclasses.replace(run, config=dataclasses.replace(run.config, mesh=mesh))])


def test_members_may_not_differ_in_anything_else(make_run):
    run = make_run(0, 1e-2)
    data = dataclasses.replace(run.config.data, target_length=4)
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data, seed=1))
    with pytest.raises(ConfigError, match=r'data\.target_length is 8 and 4: .*seed, optimizer\.learning_rate'):
        check_members([run, other])
    buckets = dataclasses.replace(run.config.data, buckets=(12, 24))
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, data=buckets))
    check_members([run])
    with pytest.raises(ConfigError, match=r'data\.buckets=\(12, 24\)'):
        check_members([run, run])
