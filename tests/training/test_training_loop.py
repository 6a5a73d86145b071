"""The loop: records, resuming, stopping at what is not finite. A job of one weight stands for a compressor."""

import dataclasses
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pic_jax
from pic_jax.cli.main import main
from pic_jax.config import OptimizerConfig, RunConfig, TrainConfig
from pic_jax.errors import ConfigError, PicJaxError, RunInterruptedError
from pic_jax.evaluation.flops import count_flops
from pic_jax.models.decoder import Decoder
from pic_jax.models.scoring import Totals
from pic_jax.run import check_fits, open_run
from pic_jax.training.loop import Job, Watch, fit
from pic_jax.training.objectives import Loss, compressor_loss
from pic_jax.training.sharding import single_device_mesh
from pic_jax.training.start import initial_trainable
from pic_jax.training.step import init_state, make_train_step
from pic_jax.training.telemetry import MEASURED, tokens_in
from pic_jax.training.train import plain_losses
from pic_jax.training.workdir import read_config
from pic_jax.training.writers import MetricsFile

CONFIG = RunConfig(
    base='none',
    optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=2),
    train=TrainConfig(steps=7, batch_size=2, log_every=3, eval_every=4, checkpoint_every=3),
)


class Interrupted(Exception):  # noqa: N818
    pass


class Numbers:
    """Batch `step` holds numbers that depend on it; some step may stop the program, be infinite or far off."""

    def __init__(self, stop=None, infinite=(), high=None):
        self.stop, self.infinite, self.high, self.asked = stop, infinite, high, []

    def __getitem__(self, step: int):
        self.asked.append(step)
        if step == self.stop:
            raise Interrupted
        x = np.random.default_rng(step).standard_normal(2).astype(np.float32)
        if step in self.infinite:
            x[1] = np.inf
        if step == self.high:
            x += 100
        return {'lm': {'x': x, 'is_target': np.ones((2, 1), bool)}, 'index': np.array([step, step + 100])}


def make_job(numbers: Numbers, config=CONFIG) -> Job:
    def totals(trained, frozen, batch):
        return {'lm': Totals((trained['w'] * frozen - batch['lm']['x']) ** 2, jnp.ones(2))}

    return Job(
        config=config,
        loss=Loss({'lm': 1.0}, totals, lambda batch: {'lm': jnp.sum(batch['lm']['is_target'])}),
        init=lambda _: {'w': jnp.float32(3)},
        frozen=jnp.float32(2),
        batches=numbers,
        sources=lambda batch: ', '.join(f'line {index}' for index in batch['index']),
        validate=lambda trained: {'loss': float(trained['w'])},
        summary=lambda trained: ['one weight'],
        mesh=single_device_mesh(),
    )


def records(workdir) -> list[dict]:
    """metrics.jsonl without the fields that are measured on the machine."""
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith(MEASURED)} for record in found]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, fit(make_job(Numbers()), workdir)


def test_records_of_a_run(whole):
    found = records(whole[0])
    assert [(record['split'], record['step']) for record in found] == [
        ('validation', 0), ('train', 3), ('validation', 4), ('train', 6), ('train', 7), ('validation', 7),
    ]  # fmt: skip
    assert set(found[1]) == {
        'step',
        'split',
        'loss',
        'grad_norm',
        'learning_rate',
        'lm_nats',
        'lm_tokens',
        'skipped_steps',
    }
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


def test_a_resumed_run_does_not_hold_the_records_before_it(tmp_path, monkeypatch):
    """A run of a million steps has as many as would fill hundreds of megabytes."""

    class Record(dict):  # a dict that can be referred to weakly
        pass

    old, alive, cut = [], [], MetricsFile.cut

    def watched(file, last):
        found = [Record(record) for record in cut(file, last)]
        old.extend(weakref.ref(record) for record in found)
        return found

    with pytest.raises(Interrupted):
        fit(make_job(Numbers(4)), tmp_path)
    monkeypatch.setattr(MetricsFile, 'cut', watched)
    monkeypatch.setattr(MetricsFile, 'write', lambda *_: alive.append([reference() for reference in old]))
    fit(make_job(Numbers()), tmp_path)
    assert alive
    assert alive[0] == [None, None]  # the validation of step 0, and step 3


class Terminated(Numbers):
    """The machine is taken away while a step's batch is made."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def __getitem__(self, step: int):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(step)


@pytest.mark.parametrize('step', [4, 5, 6])
def test_a_run_that_was_told_to_stop_has_every_record(tmp_path, whole, step):
    """Also of the validation that was due at step 4, for which there was no time."""
    with pytest.raises(RunInterruptedError, match=f'saved step {step} of 7'):
        fit(make_job(Terminated(step - 1)), tmp_path)
    assert records(tmp_path)[-1]['step'] <= step
    fit(make_job(Numbers()), tmp_path)
    assert records(tmp_path) == records(whole[0])


def test_scores_of_another_metric_are_not_compared(tmp_path):
    """The checkpoint that is best by a share of 0.9 is not better than one with a loss of 2, which counts as -2."""

    def stage(steps: int, metric: str):
        train = dataclasses.replace(
            CONFIG.train, steps=steps, eval_every=2, checkpoint_every=2, keep_checkpoints=1, best_metric=metric
        )
        job = make_job(Numbers(), dataclasses.replace(CONFIG, train=train))
        fit(job._replace(validate=lambda trained: {'loss': float(trained['w']), 'lm_exact': 0.9}), tmp_path)
        return {path.name for path in (tmp_path / 'checkpoints').iterdir()}

    assert stage(4, 'lm_exact') == {'2', '4'}
    assert stage(6, 'loss') == {'6'}


@pytest.mark.parametrize('metric', ['lm_exact', 'split', 'step'])
def test_a_metric_that_validations_lack_is_refused_before_the_first_step(tmp_path, metric):
    numbers = Numbers()
    train = dataclasses.replace(CONFIG.train, best_metric=metric)
    with pytest.raises(PicJaxError, match=rf"train\.best_metric='{metric}' is not valid: expected one of loss"):
        fit(make_job(numbers, dataclasses.replace(CONFIG, train=train)), tmp_path)
    assert not numbers.asked


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
    numbers = Numbers(infinite=[step - 1])
    with pytest.raises(PicJaxError, match=f'step {step}: loss inf.*not finite') as error:
        fit(make_job(numbers), tmp_path)
    assert f'line {step - 1}, line {step + 99}' in str(error.value)
    assert all(np.isfinite(record['loss']) for record in records(tmp_path))
    checkpoints = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
    assert checkpoints == {name for name in ('3', '6') if int(name) < step}


def allowing(skips: int) -> RunConfig:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, max_skipped_steps=skips))


def test_updates_that_are_not_finite_are_left_out_up_to_the_limit_and_counted(tmp_path, capsys):
    """Step 3, a logged one, is left out; a resume in between changes nothing."""
    whole = fit(make_job(Numbers(infinite=[2]), allowing(1)), tmp_path / 'whole')
    assert 'step 3: loss inf and gradient norm' in (err := capsys.readouterr().err)
    assert 'was discarded (1 so far, train.max_skipped_steps=1). The batch: line 2, line 102' in err
    found = [record for record in records(tmp_path / 'whole') if record['split'] == 'train']
    assert [(record['step'], record['skipped_steps']) for record in found] == [(3, 1), (6, 1), (7, 1)]
    assert ['loss' in record for record in found] == [False, True, True]
    with pytest.raises(Interrupted):
        fit(make_job(Numbers(stop=5, infinite=[2]), allowing(1)), tmp_path / 'resumed')
    resumed = fit(make_job(Numbers(infinite=[2]), allowing(1)), tmp_path / 'resumed')
    assert records(tmp_path / 'resumed') == records(tmp_path / 'whole')
    assert resumed['w'] == whole['w']


def test_one_update_more_than_the_limit_ends_the_run(tmp_path):
    with pytest.raises(PicJaxError, match=r'step 5: .*\(2 so far, train.max_skipped_steps=1\)'):
        fit(make_job(Numbers(infinite=(1, 4)), allowing(1)), tmp_path)


def test_a_raised_limit_lets_a_stopped_run_go_on(tmp_path):
    numbers = Numbers(infinite=[3])
    with pytest.raises(PicJaxError, match='step 4: loss inf'):
        fit(make_job(numbers), tmp_path)
    fit(make_job(numbers, allowing(1)), tmp_path)
    train = [record for record in records(tmp_path) if record['split'] == 'train']
    assert (train[-1]['step'], train[-1]['skipped_steps']) == (7, 1)


def test_a_spike_has_a_record_of_its_own_and_names_its_batch(tmp_path, capsys):
    """Step 19 of 20, between two records. A run that was stopped before it remembers the losses before it."""
    steady = dataclasses.replace(CONFIG.optimizer, learning_rate=1e-9, warmup_steps=0)
    every_other = TrainConfig(steps=20, batch_size=2, log_every=2, eval_every=20, checkpoint_every=17)
    config = dataclasses.replace(CONFIG, optimizer=steady, train=every_other)
    for name, stop in (('whole', None), ('resumed', 17)):
        if stop:
            with pytest.raises(Interrupted):
                fit(make_job(Numbers(stop, high=18), config), tmp_path / name)
        capsys.readouterr()
        fit(make_job(Numbers(high=18), config), tmp_path / name)
        assert 'step 19: loss spike' in (err := capsys.readouterr().err)
        assert 'The batch: line 18, line 118' in err
    lines = [json.loads(line) for line in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
    (spike,) = [record for record in lines if record.get('spike')]
    assert spike['step'] == 19
    assert 'elapsed_s' not in spike
    assert records(tmp_path / 'resumed') == records(tmp_path / 'whole')


def test_measured_fields_of_a_record(tmp_path, bare_run, tiny_config, random_params, ragged_batch):
    """Operations are those of the steps since the last record, whatever the shapes of their batches."""
    decoder = Decoder(tiny_config())
    run = bare_run(decoder.config, random_params(decoder), dict(method='icae', ratio=4, context_length=16))
    parts = {'lm': (4, [0, 0], [4, 4])}
    batches = [ragged_batch(64, S, [S, S], parts) for S in (16, 8, 8, 16)]
    config = dataclasses.replace(
        CONFIG, train=TrainConfig(steps=4, batch_size=2, log_every=2, eval_every=4, checkpoint_every=4)
    )
    job = make_job(batches, config)._replace(
        loss=compressor_loss(run), frozen=run.base, init=lambda base: run.compressor.init(jax.random.key(0), base),
        validate=lambda _: {'loss': 1.0},
    )  # fmt: skip
    fit(job, tmp_path)
    step = make_train_step(job.loss, config.optimizer, config.train)
    state = init_state(run.init_trainable(), config.optimizer, 4)
    flops = {S: count_flops(step, state, run.base, batch) for S, batch in zip((16, 8), batches[:2], strict=True)}
    assert flops[8] < 0.8 * flops[16]
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    for record in (record for record in lines if record['split'] == 'train'):
        assert {name for name in record if name.endswith(MEASURED)} == {
            'elapsed_s', 'tokens_per_s', 'flops_per_s', 'input_s', 'peak_bytes'
        }  # fmt: skip
        # Tokens have one digit after the point, which is much of a slow record's; operations have four digits.
        per_token = (flops[16] + flops[8]) / sum(map(tokens_in, batches[:2]))
        assert record['flops_per_s'] == pytest.approx(record['tokens_per_s'] * per_token, rel=1e-3, abs=0.1 * per_token)
        assert 0 < record['input_s'] < record['elapsed_s']
        assert record['peak_bytes'] > 2**20


def test_recomputation_is_not_counted(bare_run, tiny_config, random_params, ragged_batch):
    decoder = Decoder(tiny_config())
    base, batch = random_params(decoder), ragged_batch(64, 16, [16, 16], {'lm': (4, [0, 0], [4, 4])})
    compressor = dict(method='pic', ratio=4, chunk_size=8, context_length=16)
    plain, remat = (bare_run(decoder.config, base, compressor, remat=remat) for remat in ('none', 'full'))
    losses = compressor_loss(plain), compressor_loss(remat), plain_losses(remat)[0]
    state = init_state(plain.init_trainable(), CONFIG.optimizer, 1)
    once, twice, counted = (
        count_flops(make_train_step(loss, CONFIG.optimizer, CONFIG.train), state, base, batch) for loss in losses
    )
    assert counted == once < 0.9 * twice


def test_steps_can_be_traced(tmp_path, capsys):
    fit(make_job(Numbers()), tmp_path, Watch(profile_steps=range(3, 6)))
    assert f'traced steps 3 to 5: {tmp_path / "profile"}' in capsys.readouterr().err
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
    fit(make_job(Numbers()), tmp_path, Watch(profile_steps=range(3, 6)))
    assert '--profile_steps=3:5: nothing to trace, this start runs steps 8 to 7' in capsys.readouterr().err


def test_a_resumed_run_traces_the_steps_that_are_left(tmp_path, capsys):
    with pytest.raises(Interrupted):
        fit(make_job(Numbers(stop=4)), tmp_path)
    fit(make_job(Numbers()), tmp_path, Watch(profile_steps=range(2, 20)))
    assert 'traced steps 4 to 7: ' in capsys.readouterr().err


def test_a_tracker_that_cannot_be_ended_ends_no_run(tmp_path, monkeypatch, capsys):
    class Broken:
        def write(self, record):
            pass

        def close(self):
            raise OSError('no network')

    monkeypatch.setattr('pic_jax.training.loop.make_tracker', lambda *_: Broken())
    monkeypatch.setattr('pic_jax.training.loop.check_trackers', lambda _: None)
    fit(make_job(Numbers()), tmp_path, Watch(log_to=('wandb',)))
    assert 'OSError: no network' in capsys.readouterr().err
    assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == {'6', '7'}


def test_trackers_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='log_to=mlflow is not valid: expected some of tensorboard, wandb'):
        fit(make_job(Numbers()), tmp_path / 'run', Watch(log_to=('mlflow',)))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(PicJaxError, match=r'log_to=wandb needs wandb: pip install "pic_jax\[wandb\]"'):
        fit(make_job(Numbers()), tmp_path / 'run', Watch(log_to=('wandb',)))
    assert not (tmp_path / 'run').exists()


class Growing(Numbers):
    """Batches of 2, 4, 6, ... tokens."""

    def __getitem__(self, step: int):
        batch = super().__getitem__(step)
        batch['lm']['is_target'] = np.tile(np.arange(20) <= step, (2, 1))
        return batch


def test_every_record_has_the_tokens_of_its_own_steps(tmp_path, monkeypatch):
    ticks = types.SimpleNamespace(perf_counter=itertools.count().__next__)  # a record is a second
    monkeypatch.setattr('pic_jax.training.telemetry.time', ticks)
    fit(make_job(Growing()), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    found = {record['step']: record for record in lines if record['split'] == 'train'}
    tokens = {step: record['tokens_per_s'] * record['elapsed_s'] for step, record in found.items()}
    assert tokens == {3: 2 + 4 + 6, 6: 10 + 12, 7: 14}  # the validation of step 4 begins anew, tokens and seconds


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
        (  # the last group starts with the third window, at 40
            dict(method='epl', ratio=16, window=20, context_length=41, decoder_positions='spread'),
            dict(lm=1.0), dict(target_length=77), 2 + 40 + 8 + 1 + 77,
        ),
    ],
)  # fmt: skip
def test_memory_and_text_must_fit_the_decoder(tiny_config, bare_run, compressor, objective, data, needed):
    data = {'context_length': compressor['context_length'], 'min_context': 1} | data
    check_fits(bare_run(tiny_config(max_position_embeddings=needed), {}, compressor, objective, (0, 5), data))
    with pytest.raises(ConfigError, match=f'needs {needed} positions .* the model has {needed - 1}'):
        check_fits(bare_run(tiny_config(max_position_embeddings=needed - 1), {}, compressor, objective, (0, 5), data))


def test_the_words_of_a_context_must_fit_the_decoder(tiny_config, bare_run):
    """Windows fit where the whole context, which the target scores, does not."""
    compressor, objective = dict(method='icae', ratio=4, window=16), dict(words=1.0, lm=0.0)

    def check(positions):
        check_fits(bare_run(tiny_config(max_position_embeddings=positions), {}, compressor, objective, (0,), data))

    data = dict(context_length=64)
    check(64)
    with pytest.raises(ConfigError, match=r'objective\.words=1\.0 .* data\.context_length=64 .* its 63 positions'):
        check(63)


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
    rng = random.Random(0)
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
def test_sigterm_saves_and_exits_with_the_code_that_asks_for_a_restart(tmp_path, tiny_config_file):
    """The command line, in one process: it saves the step it is in, exits with 75, and goes on as if never stopped."""
    many = [f'--config.train.{name}=100000' for name in ('steps', 'checkpoint_every', 'eval_every')]
    options = [*many, '--config.optimizer.schedule=constant']  # which the number of steps changes nothing of
    command = [sys.executable, '-m', 'pic_jax.cli.main', 'train', f'--config={tiny_config_file}', *options]
    whole, told = tmp_path / 'whole', tmp_path / 'told'
    process = subprocess.Popen([*command, f'--workdir={told}'], stderr=subprocess.PIPE, text=True)
    metrics = told / 'metrics.jsonl'
    while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 6):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    err = process.communicate()[1]
    assert process.returncode == 75, err
    saved = int(re.search(r'told to stop: saved step (\d+) of 100000; run the same command again to go on', err)[1])
    assert [path.name for path in (told / 'checkpoints').iterdir()] == [str(saved)]
    command.append(f'--config.train.steps={saved + 10}')
    again = subprocess.run([*command, f'--workdir={told}'], check=True, capture_output=True, text=True)
    assert f'resumed from step {saved}' in again.stderr
    subprocess.run([*command, f'--workdir={whole}'], check=True, capture_output=True)
    assert records(told) == records(whole)


@pytest.mark.slow
def test_a_step_that_never_ends_ends_the_process(tmp_path):
    """A host that is gone, as the others see it: a collective that does not come back."""
    program = """
import time
from pic_jax.training.interruption import Watchdog
watchdog = Watchdog(1)
time.sleep(2)       # compilation: the clock has not started
watchdog.fed(1)
watchdog.rest()
time.sleep(2)       # a validation
watchdog.fed(7)
time.sleep(60)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 75
    assert 'no step has finished for train.stall_timeout_s=1 seconds since step 7' in done.stderr
    assert 4 < time.monotonic() - started < 50


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
def test_a_resumed_run_needs_no_longer_what_it_started_from(tmp_path, trained_workdir, tiny_config_file):
    first, run = shutil.copytree(trained_workdir, tmp_path / 'first'), tmp_path / 'run'
    train = ['train', f'--config={tiny_config_file}', f'--workdir={run}', f'--config.start={first}']
    assert main([*train, '--config.train.steps=1']) == 0
    shutil.rmtree(first)
    assert main([*train, '--config.train.steps=2']) == 0
    assert records(run)[-1]['step'] == 2


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
    assert main([*train, f'--config.start={trained_workdir}', '--config.dtype=bfloat16']) == 2
    assert re.search(r'start=.* has dtype=float32, this run has dtype=bfloat16', capsys.readouterr().err)
    assert main([*train, f'--config.start={tmp_path / "nothing"}']) == 1
    assert 'nothing is not a workdir' in capsys.readouterr().err
    assert not list((tmp_path / 'run' / 'checkpoints').iterdir())
