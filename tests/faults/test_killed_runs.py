"""Runs that are killed at a moment of one's choice; benchmarks/faults.py does the same at many random ones."""

import json
import time

import faults
import killed_runs as runs
import pytest
from killed_runs import Moment

SHORT = ('--config.train.steps=24', '--config.train.eval_every=12')


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """Starts share what they compile: a test has six."""
    return {'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled'))}


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_kills_change_nothing(tmp_path, environment, processes):
    """SIGKILL in a save and between two records, the last process alone, SIGTERM to it: all in one run."""
    whole = tmp_path / 'whole'
    assert runs.ended(runs.start(whole, processes, SHORT, **environment)) == [0] * processes
    records = runs.records(whole)
    assert [record['step'] for record in records if record['split'] == 'train'] == list(range(1, 25))

    everybody, workdir = tuple(range(processes)), tmp_path / 'killed'
    resumed = []
    for moment in (
        Moment('SIGKILL', 'save', 2, 0.02, everybody, 0.0),
        Moment('SIGKILL', 'record', 5, 0.0, everybody, 0.0),
        Moment('SIGKILL', 'record', 3, 0.0, everybody[-1:], 0.0),
        Moment('SIGTERM', 'record', 2, 0.0, everybody[-1:], 0.0),
    ):
        codes = runs.kill(runs.start(workdir, processes, SHORT, **environment), workdir, moment).exit_codes
        said = runs.log(workdir).read_text()[-2000:]
        if moment.signal == 'SIGTERM':
            assert codes == [75] * processes, said
        else:
            assert codes[-len(moment.targets) :] == [-9] * len(moment.targets), said
        if len(codes) > len(moment.targets) and moment.signal == 'SIGKILL':
            assert codes[0] in (134, -6), said  # JAX may be the first to notice
            assert ('another process of the job is gone' in said) == (codes[0] == 134)
        assert runs.problem(workdir, records) is None
        resumed.append((runs.resumed_from(workdir), runs.saved_step(workdir)))
    assert runs.ended(runs.start(workdir, processes, SHORT, **environment)) == [0] * processes
    resumed.append((runs.resumed_from(workdir), runs.saved_step(workdir)))
    assert [step for step, _ in resumed] == [0, *[saved for _, saved in resumed[:-1]]]
    assert runs.records(workdir) == records
    assert runs.unfinished(workdir) == []


def test_what_counts_as_a_problem(tmp_path):
    """The judge of the soak sees a record that is lost, doubled or different."""
    whole = [{'step': step, 'split': 'train', 'loss': 1 / step} for step in range(1, 9)]
    (tmp_path / 'checkpoints' / '4').mkdir(parents=True)

    def judged(records, tail=''):
        text = ''.join(json.dumps(record | {'elapsed_s': 0.5}) + '\n' for record in records)
        (tmp_path / 'metrics.jsonl').write_text(text + tail)
        return runs.problem(tmp_path, whole)

    assert judged(whole[:4]) is judged(whole[:6], '{"step": 7, "lo') is judged(whole) is None
    assert '3 records for a checkpoint of step 4, expected at least 4' in judged(whole[:3])
    assert 'record 4 is' in judged([*whole[:3], whole[2], whole[3]])
    assert 'record 2 is' in judged([whole[0], whole[1] | {'loss': 0.5000000001}, *whole[2:]])
    assert 'expected no more' in judged([*whole, whole[-1]])


def test_seconds_that_a_run_was_deaf_for(tmp_path):
    """Steps after the one that was reached; the first may have compiled. Validations take no part."""
    rows = [{'step': step, 'split': 'train', 'elapsed_s': step / 2} for step in range(1, 6)]
    rows.insert(4, {'step': 4, 'split': 'validation', 'loss': 1.0})
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{"step": 6, "spl')
    assert [runs.deaf_s(tmp_path, reached) for reached in (5, 4, 3, 1, 0)] == [0, 0, 2.5, 6.0, 7.0]


def test_moments_depend_on_the_seed_alone_and_fall_into_saves_often():
    drawn = [runs.draw(seed, name, processes) for name, processes in faults.KILLS for seed in range(20)]
    assert drawn == [runs.draw(seed, name, processes) for name, processes in faults.KILLS for seed in range(20)]
    assert len(set(drawn)) == len(drawn)
    assert sum(moment.event == 'save' for moment in drawn) >= len(drawn) / 3
    assert {moment.targets for moment in drawn} == {(0,), (1,), (0, 1), (1, 0)}


KILLED = {'signal': 'SIGKILL', 'exit_codes': [-9], 'in_time': True, 'in_save': False, 'processes': 1, 'saved_step': 8,
          'records': 10, 'reached': 9, 'saved_before': 4, 'records_before': 5, 'problem': None,
          'targets': [0]}  # fmt: skip
BOTH = KILLED | {'processes': 2, 'targets': [0, 1], 'exit_codes': [-9, -9]}
TOLD = KILLED | {'signal': 'SIGTERM', 'exit_codes': [75], 'saved_step': 9, 'deaf_s': 1.2}
UNTOUCHED = {'saved_step': 4, 'records': 5, 'reached': 4}


@pytest.mark.parametrize(
    ('row', 'outcome'),
    [
        (KILLED, faults.COUNTED),
        (BOTH | {'exit_codes': [-9, 134]}, faults.COUNTED),  # its peer noticed in between
        (BOTH | {'exit_codes': [-6, -9]}, faults.COUNTED),  # JAX noticed first
        (BOTH | {'exit_codes': [-9, 0]}, faults.WRONG),
        (BOTH | {'exit_codes': [-9, 75]}, faults.WRONG),
        (BOTH | {'exit_codes': [-6, -9], 'in_time': False}, faults.LATE),
        (BOTH | {'exit_codes': [0, -9], 'in_time': False, 'targets': [1]}, faults.LATE),
        (BOTH | {'exit_codes': [-9, -9], 'in_time': False, 'targets': [1]}, faults.WRONG),  # it hung
        (BOTH | {'exit_codes': [-9, 1]}, faults.WRONG),
        (BOTH | {'exit_codes': [134, -9], 'targets': [1]}, faults.COUNTED),
        (BOTH | {'exit_codes': [-9, -9], 'targets': [1]}, faults.WRONG),  # it hung until the script killed it
        (BOTH | {'exit_codes': [134, 134], 'targets': [1]}, faults.WRONG),
        (KILLED | {'exit_codes': [75]}, faults.WRONG),
        (KILLED | {'problem': 'a record is lost'}, faults.WRONG),
        (TOLD, faults.COUNTED),
        (TOLD | {'saved_step': 8}, faults.WRONG),  # less than was reached
        (TOLD | {'exit_codes': [-15]}, faults.WRONG),  # in the midst of the training
        (TOLD | {'exit_codes': [75, -6]}, faults.WRONG),
        (TOLD | {'exit_codes': [75, 134]}, faults.WRONG),
        (TOLD | {'exit_codes': [1]}, faults.WRONG),
        (TOLD | UNTOUCHED | {'exit_codes': [-15]}, faults.EARLY),
        (TOLD | UNTOUCHED | {'exit_codes': [-15, -6]}, faults.EARLY),
        (TOLD | UNTOUCHED | {'exit_codes': [-15, -9]}, faults.WRONG),  # the other one hung
        (TOLD | UNTOUCHED | {'exit_codes': [-6]}, faults.WRONG),
        (TOLD | {'exit_codes': [0], 'in_time': False}, faults.LATE),
        (TOLD | {'exit_codes': [0], 'in_time': False, 'deaf_s': 8.5}, faults.WRONG),  # trained on to its last step
        (TOLD | {'deaf_s': 8.5}, faults.WRONG),
        (TOLD | {'exit_codes': [-15], 'in_time': False}, faults.LATE),  # between the last save and the exit
        (TOLD | {'exit_codes': [1], 'in_time': False}, faults.WRONG),
    ],
)
def test_what_a_kill_comes_to(row, outcome):
    found, problem = faults.judged(row)
    assert found == outcome
    assert (problem is not None) == (outcome == faults.WRONG)


def test_the_table_counts_what_the_rows_come_to():
    """Also of rows from before the step reached, and for how long SIGTERM went unheard, were stored."""
    newer = 'reached', 'saved_before', 'records_before', 'deaf_s'
    older = {name: value for name, value in TOLD.items() if name not in newer}
    early = older | {'exit_codes': [-15], 'saved_step': 0, 'records': 0}
    rows = [TOLD, older | {'in_save': True}, early, TOLD | {'exit_codes': [1]}]
    lines = faults.tables(rows, []).splitlines()
    assert '| SIGTERM | 1 | 3 of 10 | 1 | 1 | 0 | 1 |' in lines
    assert 'Steps went on for at most 1.2 s after SIGTERM (of 4 rows 2 say how long).' in lines
    assert len([seed for name, processes, seed in faults.next_kills(rows) if (name, processes) == ('SIGKILL', 1)]) == 4


@pytest.mark.slow
def test_sigterm_before_the_first_step_of_a_resumed_run_is_heard(tmp_path, environment):
    """While it compiles, which takes minutes for a large model."""
    words, workdir = ('--config.train.steps=400', '--config.train.eval_every=400'), tmp_path / 'run'
    first = Moment('SIGTERM', 'save', 2, 0.0, (0,), 0.0)
    assert runs.kill(runs.start(workdir, 2, words, **environment), workdir, first).exit_codes == [75, 75]
    running = runs.start(workdir, 2, words)  # that compiles: JAX looks for a signal once a second
    deadline = time.monotonic() + runs.LIMIT_S
    while 'devices: ' not in runs.log(workdir).read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    running[1].terminate()
    resumed = runs.saved_step(workdir)
    assert runs.ended(running) == [75, 75], runs.log(workdir).read_text()[-2000:]
    assert runs.saved_step(workdir) == resumed + 1 > 1
