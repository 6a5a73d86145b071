"""The judges of the long runs: what grows is flagged, what does not is not."""

import os
import signal
import subprocess
import sys

import long_run
import many_documents
import numpy as np
import pytest
from growth import slope
from process_samples import busy_s, reference_s, usage

MINUTES = np.arange(0, 45, 1 / 12)  # a sample every 5 seconds


def series(**grown) -> long_run.Samples:
    """Samples of 45 minutes that do not grow, noisy as those of a real run; `grown` is added to some of them."""
    rng, n = np.random.default_rng(0), len(MINUTES)
    steps = 10 * np.floor(MINUTES * 120)  # records of every 10th step, 20 steps a second
    flat = {
        't_s': 60 * MINUTES, 'rss_mib': 900 + rng.normal(0, 1, n), 'anonymous_mib': 700 + rng.normal(0, 1, n),
        'handles': 40 + rng.integers(0, 2, n) * 3, 'threads': np.full(n, 25), 'cpu_s': 0.08 * steps,
        'step': steps, 'step_s': 0.05 + rng.normal(0, 0.004, n), 'busy_s': 0.08 * steps + 6 * MINUTES,
        'heap_mib': 320 + rng.normal(0, 1, n), 'python_blocks': 1.5e6 + rng.normal(0, 1e3, n),
        'reference_s': 0.02 + rng.normal(0, 0.002, n),
    }  # fmt: skip
    return flat | {name: flat[name] + more for name, more in grown.items()}


def row(**grown) -> dict:
    """Of a segment with these samples."""
    return {
        'samples': {name: values.tolist() for name, values in series(**grown).items()}, 'settle_minutes': 5,
        'resumed_from': None, 'saved_before': None, 'last_step': 500, 'exit_code': 75, 'unwatched_steps': 0, 'saves': 2,
        'evaluations': 3,
    }  # fmt: skip


def judged(**grown) -> list[str]:
    return long_run.problems(row(**grown), None)


def test_what_does_not_grow_is_not_flagged():
    assert judged() == []


@pytest.mark.parametrize(
    ('name', 'grown'),
    [
        ('rss_mib', MINUTES / 60 * 20),  # 20 MiB an hour
        ('heap_mib', MINUTES / 60 * 20),
        ('python_blocks', MINUTES / 60 * 2e5),  # 19 MiB an hour
        ('handles', np.floor(MINUTES / 10)),  # one in ten minutes
        ('threads', np.floor(MINUTES / 10)),
        ('step_s', 0.05 * MINUTES / 60 * 0.5),  # half as long again in an hour
        ('cpu_s', 0.08 * 1200 * MINUTES * (MINUTES / 120) * 0.5),  # whose time per step grows so
    ],
)
def test_what_grows_is_flagged(name, grown):
    (found,) = judged(**{name: grown})
    assert found.startswith({'cpu_s': 'step_cpu_s'}.get(name, name))


def test_a_machine_that_gets_slower_is_not_a_step_that_does():
    """Half as fast for the last 15 minutes, by what the fixed work took."""
    late = np.maximum(MINUTES - 30, 0)
    slower = {'step_s': 0.05 * (late > 0), 'cpu_s': 0.08 * 1200 * late}
    assert judged(**slower, reference_s=0.02 * (late > 0)) == []
    assert [found.partition(':')[0] for found in judged(**slower)] == ['step_cpu_s', 'step_s']
    old = row(**slower)
    del old['samples']['reference_s']
    assert len(long_run.problems(old, None)) == 2


def test_the_fixed_work_takes_processor_time():
    assert 0 < min(reference_s() for _ in range(5)) < 0.5


def test_what_grows_before_the_fit_begins_is_not():
    assert judged(rss_mib=np.minimum(MINUTES, 4) * 100) == []


def test_a_peak_of_every_save_is_not():
    assert judged(rss_mib=np.where(np.arange(len(MINUTES)) % 5 == 0, 300, 0)) == []


def test_what_a_save_holds_for_a_while_is_not():
    """Contexts and threads of tensorstore for 70 of 150 seconds; a step's buffers most of the time."""
    held = (MINUTES * 60) % 150 < 70
    between = np.random.default_rng(3).random(len(MINUTES)) < 0.4
    assert judged(heap_mib=9.0 * held, threads=6 * held, rss_mib=-40.0 * between) == []


def test_the_mean_of_segments_is_as_sure_as_their_errors_and_their_spread():
    def of(*rates):
        return long_run.pooled([{name: {'rate': rate, 'error': 8.0} for name in long_run.UNITS} for rate in rates])

    alike, apart = of(0.9, 1.1, 0.8, 1.2)['step_s'], of(-30.0, -10.0, 20.0, 60.0)['step_s']
    assert alike == pytest.approx((1, 4, 1 - 1.993 * 4, 1 + 1.993 * 4), rel=1e-3)
    assert apart == pytest.approx((10, 19.58, 10 - 3.182 * 19.58, 10 + 3.182 * 19.58), rel=1e-3)


def test_the_table_says_what_is_wrong_and_what_all_come_to():
    first = row()
    second = first | {'resumed_from': 400, 'saved_before': 400, 'last_step': 900}
    assert len(long_run.numbered([first]).splitlines()) == 3
    lines = long_run.numbered([first, second, second, second]).splitlines()
    assert lines[2].startswith('| 1 | 0 to 500 | 2 | 3 | ')
    assert lines[2].endswith(' | none |')
    assert lines[3].endswith(' | the workdir was at step 400, the segment before ended at 500 |')
    assert lines[-1].startswith('| all |  |  |  | ')
    assert len({line.count('|') for line in lines}) == 1


def test_a_segment_without_steps_is_flagged():
    assert judged(step=-series()['step']) == ['too few samples to fit a line']


def test_a_line_is_fitted_with_its_error():
    """Noise of a known size, often: the interval holds the truth about as often as it says."""
    rng, x = np.random.default_rng(1), np.linspace(0, 2, 20)
    found = [slope(x, 5 + 3 * x + rng.normal(0, 0.5, len(x))) for _ in range(400)]
    assert np.mean([each.rate for each in found]) == pytest.approx(3, abs=0.03)
    assert np.mean([each.low <= 3 <= each.high for each in found]) == pytest.approx(0.95, abs=0.03)
    assert slope([0, 1, 2, 3], [7, 7, 7, 7]) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match='2 samples: expected at least 3'):
        slope([0, 1], [0, 1])


def test_a_resume_from_elsewhere_is_flagged():
    resumed = row() | {'saved_before': 500, 'resumed_from': 500}
    assert long_run.problems(resumed, {'last_step': 500}) == []
    assert long_run.problems(row(), {'last_step': 500}) == []
    assert long_run.problems(resumed | {'exit_code': 1}, None) == ['exit code 1, expected 75']
    assert long_run.problems(resumed | {'resumed_from': 450}, None) == ['resumed from 450, expected 500']
    (found,) = long_run.problems(resumed, {'last_step': 600})
    assert found == 'the workdir was at step 500, the segment before ended at 600'
    assert long_run.problems(resumed, {'last_step': 400}) == []  # a segment that was cut went on


def test_sigterm_stops_the_training_too(tmp_path, monkeypatch):
    """And leaves no row."""
    training = subprocess.Popen(['sleep', '60'])
    monkeypatch.setattr(long_run.runs, 'start', lambda *_, **__: [training])
    monkeypatch.setattr(long_run, 'watched', lambda *_: signal.raise_signal(signal.SIGTERM))
    rows = tmp_path / 'rows.json'
    monkeypatch.setattr(sys, 'argv', ['long_run.py', f'--workdir={tmp_path / "run"}', f'--results={rows}'])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match='cut by SIGTERM'):
            long_run.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert training.poll() == -signal.SIGTERM
    assert not rows.exists()


def test_few_samples_are_stored():
    kept = long_run.thinned(series())
    assert {len(values) for values in kept.values()} == {180}
    assert kept['t_s'][:2] == [0, 15]


def test_what_linux_says_of_this_process():
    before, cpu_s = usage(os.getpid()), busy_s()
    with open(os.devnull) as _:
        after = usage(os.getpid())
    assert after.handles == before.handles + 1
    assert 0 < before.anonymous_mib < before.rss_mib
    assert 0 < before.cpu_s <= cpu_s
    assert before.threads >= 1
    assert usage(2**22 + 1) is None


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({}, []),
        ({'compilations': 5}, ['compiled 5 times, expected 1 to 4']),  # more often than there are buckets
        ({'buckets': dict.fromkeys(range(9), 1), 'compilations': 7}, ['compiled 7 times, expected 1 to 6']),
        ({'compilations': 0}, ['compiled 0 times, expected 1 to 4']),
        ({'growth': 0.2}, ['memory grows by 20.0%, expected at most 10%']),
        ({'growth': None}, ['fewer than 3 batches after the last compilation: no line can be fitted']),
    ],
)
def test_what_counts_as_a_problem_of_many_documents(changed, said):
    found = {
        'compilations': 4, 'compilations_allowed': 6, 'batch_shapes': 1, 'growth': 0.01,
        'buckets': {32: 2, 64: 5, 128: 9, 256: 7},
    }  # fmt: skip
    assert many_documents.problems(found | changed) == said


def test_a_compress_that_fails_leaves_no_row(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout='{}')
    monkeypatch.setattr(many_documents.subprocess, 'run', lambda *_, **__: failed)
    with pytest.raises(SystemExit, match='ended with exit code 1'):
        many_documents.compress_in_child(['--workdir=none'])


def test_four_programs_for_each_doubling():
    assert [many_documents.limit(longest, 1) for longest in (1, 32, 33, 64, 2000)] == [2, 2, 6, 6, 26]
    assert many_documents.limit(2000, 2) == 52
