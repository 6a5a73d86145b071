"""The loop: records, resuming, stopping at what is not finite. A job of one weight stands for a compressor."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pic_jax
from pic_jax.cli.main import main
from pic_jax.config import OptimizerConfig, RunConfig, TrainConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.models.scoring import Totals
from pic_jax.run import check_fits, open_run
from pic_jax.training.loop import Job, fit, initial_trainable, tokens_in
from pic_jax.training.objectives import Loss
from pic_jax.training.workdir import read_config

CONFIG = RunConfig(
    base='none',
    optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=2),
    train=TrainConfig(steps=7, batch_size=2, log_every=3, eval_every=4, checkpoint_every=3),
)


class Interrupted(Exception):  # noqa: N818
    pass


class Numbers:
    """Batch `step` holds numbers that depend on it; some step may stop the program or be infinite."""

    def __init__(self, stop=None, infinite=None):
        self.stop, self.infinite, self.asked = stop, infinite, []

    def __getitem__(self, step: int):
        self.asked.append(step)
        if step == self.stop:
            raise Interrupted
        x = np.random.default_rng(step).standard_normal(2).astype(np.float32)
        if step == self.infinite:
            x[1] = np.inf
        return {'lm': {'x': x, 'is_target': np.ones((2, 1), bool)}, 'index': np.array([step, step + 100])}


def make_job(numbers: Numbers, config=CONFIG) -> Job:
    def totals(trained, frozen, batch):
        return {'lm': Totals((trained['w'] * frozen - batch['lm']['x']) ** 2, jnp.ones(2))}

    return Job(
        config=config,
        loss=Loss({'lm': 1.0}, totals, lambda batch: {'lm': jnp.sum(batch['lm']['is_target'])}),
        init=lambda: {'w': jnp.float32(3)},
        frozen=jnp.float32(2),
        batches=numbers,
        sources=lambda batch: ', '.join(f'line {index}' for index in batch['index']),
        validate=lambda trained: {'loss': float(trained['w'])},
        summary=lambda trained: ['one weight'],
    )


def records(workdir) -> list[dict]:
    """metrics.jsonl without the fields that depend on the clock."""
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith(('_s', '_per_s'))} for record in found]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, fit(make_job(Numbers()), workdir)


def test_records_of_a_run(whole):
    found = records(whole[0])
    assert [(record['split'], record['step']) for record in found] == [
        ('validation', 0), ('train', 3), ('validation', 4), ('train', 6), ('train', 7), ('validation', 7),
    ]  # fmt: skip
    assert set(found[1]) == {'step', 'split', 'loss', 'grad_norm', 'learning_rate', 'lm_nats', 'lm_tokens'}
    assert found[0]['loss'] == 3  # the weight before the first update
    assert found[-1]['loss'] == float(whole[1]['w']) < 2.9
    assert found[1]['learning_rate'] == pytest.approx(0.1)  # warm-up of 2 steps is over at step 3


@pytest.mark.parametrize(
    'stops',
    [
        [1],
        [3], [5], [4, 6], [6],
    ],
)  # fmt: skip
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, whole, stops):
    for stop in stops:
        with pytest.raises(Interrupted):
            fit(make_job(Numbers(stop)), tmp_path)
    last = Numbers()
    trained = fit(make_job(last), tmp_path)
    assert records(tmp_path) == records(whole[0])
    assert trained['w'].tobytes() == whole[1]['w'].tobytes()
    assert last.asked[0] == stops[-1] // 3 * 3  # it went on from the newest checkpoint


def test_a_finished_run_does_nothing_and_more_steps_go_on(tmp_path, capsys):
    fit(make_job(Numbers()), tmp_path)
    before, again = records(tmp_path), Numbers()
    fit(make_job(again), tmp_path)
    assert (records(tmp_path), again.asked) == (before, [])
    more, longer = Numbers(), CONFIG.train.__class__(**{**CONFIG.train.__dict__, 'steps': 9})
    capsys.readouterr()
    fit(make_job(more, RunConfig(base='none', optimizer=CONFIG.optimizer, train=longer)), tmp_path)
    assert more.asked == [7, 8]
    assert records(tmp_path)[: len(before)] == before
    assert records(tmp_path)[-1]['step'] == 9
    err = capsys.readouterr().err
    assert 'changed: train.steps: 7 -> 9' in err
    assert 'resumed from step 7' in err


@pytest.mark.parametrize('step', [1, 2, 5, 7])
def test_a_loss_that_is_not_finite_stops_with_step_and_batch_named(tmp_path, step):
    numbers = Numbers(infinite=step - 1)
    with pytest.raises(PicJaxError, match=f'step {step}: loss inf.*not finite') as error:
        fit(make_job(numbers), tmp_path)
    assert f'line {step - 1}, line {step + 99}' in str(error.value)
    assert all(np.isfinite(record['loss']) for record in records(tmp_path))
    checkpoints = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
    assert checkpoints == {name for name in ('3', '6') if int(name) < step}


def test_every_record_has_the_tokens_of_its_own_steps(tmp_path):
    every_step = TrainConfig(steps=3, batch_size=2, log_every=1, eval_every=2, checkpoint_every=3)
    fit(make_job(Numbers(), RunConfig(base='none', optimizer=CONFIG.optimizer, train=every_step)), tmp_path)
    found = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert all(record['tokens_per_s'] > 0 for record in found if record['split'] == 'train')


def test_tokens_of_a_batch(ragged_batch):
    batch = ragged_batch(64, 8, [8, 3], {'lm': (4, [0, 0], [4, 2]), 'ft': (4, [1, 2], [4, 3])})
    assert tokens_in(batch) == 8 + 3 + 4 + 2 + 3 + 1


@pytest.mark.parametrize(
    ('compressor', 'objective', 'data', 'needed'),
    [
        (dict(method='icae', ratio=4, context_length=40), dict(lm=1.0), dict(target_length=115), 128),
        (dict(method='icae', ratio=4, context_length=90), dict(ae=1.0, lm=0.0), dict(context_length=90), 117),
        (dict(method='icae', ratio=4, context_length=40), dict(ft=1.0, lm=0.0), dict(answer_length=115), 128),
        (
            dict(method='epl', ratio=4, context_length=40, decoder_positions='spread'),
            dict(lm=1.0), dict(target_length=85), 128,
        ),
    ],
)  # fmt: skip
def test_memory_and_text_must_fit_the_decoder(tiny_config, bare_run, compressor, objective, data, needed):
    data = {'context_length': compressor['context_length'], 'min_context': 1} | data
    check_fits(bare_run(tiny_config(max_position_embeddings=needed), {}, compressor, objective, (0, 5), data))
    with pytest.raises(ConfigError, match=f'needs {needed} positions .* the model has {needed - 1}'):
        check_fits(bare_run(tiny_config(max_position_embeddings=needed - 1), {}, compressor, objective, (0, 5), data))


def test_train_resumes_bit_for_bit(finished_workdir, trained_workdir, tiny_config_file, capsys):
    """A whole compressor, as a kill leaves it: records past the newest checkpoint, the last of them cut."""
    shutil.rmtree(finished_workdir / 'checkpoints' / '4')
    with (finished_workdir / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 4, "split": "valid')
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={finished_workdir}']) == 0
    assert 'resumed from step 2' in capsys.readouterr().err
    assert records(finished_workdir) == records(trained_workdir)
    again, whole = pic_jax.load(finished_workdir).trainable, pic_jax.load(trained_workdir).trainable
    assert jax.tree.map(lambda x: np.asarray(x).tobytes(), again) == jax.tree.map(
        lambda x: np.asarray(x).tobytes(), whole
    )
    assert not list(finished_workdir.rglob('*.tmp'))


@pytest.mark.slow
def test_killing_at_random_moments_changes_nothing(tmp_path, tiny_config_file):
    """SIGKILL, three times, each after a few records more and a moment."""
    options = ['--config.train.steps=60', '--config.train.checkpoint_every=7', '--config.train.eval_every=9']
    command = [sys.executable, '-m', 'pic_jax.cli.main', 'train', f'--config={tiny_config_file}', *options]
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    subprocess.run([*command, f'--workdir={whole}'], check=True, capture_output=True)
    rng = random.Random(time.time_ns())
    kills = []
    for _ in range(3):
        process = subprocess.Popen(
            [*command, f'--workdir={killed}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        metrics = killed / 'metrics.jsonl'
        had = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        lines, pause = had + rng.randint(1, 20), rng.random() * 0.2
        while process.poll() is None:
            now = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            if now >= lines:
                break
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append((lines, pause, process.returncode))
    assert any(code == -signal.SIGKILL for *_, code in kills), kills
    subprocess.run([*command, f'--workdir={killed}'], check=True, capture_output=True)
    assert records(killed) == records(whole), kills


@pytest.mark.slow
def test_a_run_may_go_on_from_another_runs_compressor(tmp_path, trained_workdir, tiny_config_file):
    options = [f'--config.start={trained_workdir}', '--config.train.steps=1', '--config.seed=5']
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={tmp_path}', *options]) == 0
    config = dataclasses.replace(read_config(trained_workdir), start=str(trained_workdir), seed=5)
    run, before = open_run(config), pic_jax.load(trained_workdir).trainable
    begins = initial_trainable(run)
    assert jax.tree.all(jax.tree.map(np.array_equal, begins, before))
    assert not jax.tree.all(jax.tree.map(np.array_equal, begins, run.init_trainable()))
    assert records(tmp_path)[0]['loss'] == records(trained_workdir)[-1]['loss']


@pytest.mark.slow
def test_a_run_from_another_compressor_compiles_its_step_once(tmp_path, trained_workdir, tiny_config_file, caplog):
    options = [f'--config.start={trained_workdir}', '--config.train.steps=3']
    with jax.log_compiles():
        assert main(['train', f'--config={tiny_config_file}', f'--workdir={tmp_path}', *options]) == 0
    compiled = [text for text in caplog.messages if text.startswith('Finished XLA compilation of jit(step)')]
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ('ratio', 'chunk', 'rows'), [(4, 8, [0, 1]), (2, 8, [0, 0, 1, 1]), (8, 8, [0]), (4, 16, [0, 0, 1, 1])]
)
def test_a_start_at_another_ratio_keeps_everything_and_repeats_or_leaves_out_embeddings(
    trained_workdir, ratio, chunk, rows
):
    config = read_config(trained_workdir)
    assert (config.compressor.ratio, config.compressor.chunk_size) == (4, 8)
    compressor = dataclasses.replace(config.compressor, ratio=ratio, chunk_size=chunk)
    run = open_run(dataclasses.replace(config, compressor=compressor, start=str(trained_workdir)))
    before, begins = pic_jax.load(trained_workdir).trainable, initial_trainable(run)
    shapes = jax.tree.map(np.shape, begins)
    assert shapes == jax.tree.map(np.shape, run.init_trainable())
    assert np.array_equal(begins.pop('memory_embeddings'), before.pop('memory_embeddings')[np.array(rows)])
    assert jax.tree.all(jax.tree.map(np.array_equal, begins, before))


def test_a_start_with_another_compressor_or_none_is_refused(tmp_path, trained_workdir, tiny_config_file, capsys):
    train = ['train', f'--config={tiny_config_file}', f'--workdir={tmp_path / "run"}']
    assert main([*train, f'--config.start={trained_workdir}', '--config.compressor.lora.rank=3']) == 2
    assert re.search(r'start=.* has compressor=.*rank=2.*this run has compressor=.*rank=3', capsys.readouterr().err)
    assert main([*train, f'--config.start={tmp_path / "nothing"}']) == 1
    assert 'nothing is not a workdir' in capsys.readouterr().err
    assert not (tmp_path / 'run' / 'checkpoints').exists()
