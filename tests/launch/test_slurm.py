"""slurm.sbatch as Slurm's batch step runs it, with an srun whose one task is a shell script."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ('train', '--config=configs/own_data.py', '--workdir=runs/pic')
JOB = {'SLURM_JOB_ID': '42', 'SLURM_SUBMIT_DIR': '/shared', 'PIC_JAX': '/shared/pic-jax'}
REQUEUE = ['scontrol', 'requeue', '42']


@pytest.fixture
def slurm(fakes):
    """A function from what srun and squeue do to a function that starts the job."""
    fakes.add('scontrol')

    def make(srun, state='RUNNING'):
        fakes.add('srun', srun)
        fakes.add('squeue', f'echo {state}')
        return subprocess.Popen(
            [ROOT / 'launch/slurm.sbatch', *TRAIN], env=fakes.environment | JOB, cwd=fakes.folder,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    return make


def signal_when(path, process):
    deadline = time.monotonic() + 60  # of a process that never comes; a busy machine takes a while
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(('code', 'again'), [(0, False), (1, False), (2, False), (75, True), (137, False)])
def test_only_75_is_queued_again(fakes, slurm, code, again):
    assert slurm(f'exit {code}').wait(timeout=30) == code
    assert (REQUEUE in fakes.calls) == again
    (srun,) = [call for call in fakes.calls if call[0] == 'srun']
    assert srun[-4:] == ['/shared/pic-jax', *TRAIN]


@pytest.mark.parametrize(
    ('after', 'state', 'again'),
    [
        (75, 'RUNNING', True),
        (143, 'RUNNING', True),  # before the training could catch it
        (75, 'PREEMPTED', True),
        (0, 'RUNNING', False),  # done just in time
        (1, 'RUNNING', False),
        (75, 'CANCELLED', False),
        (75, 'COMPLETING', False),
    ],
)
def test_sigterm_reaches_the_tasks(fakes, slurm, after, state, again):
    started = fakes.folder / 'started'
    trap = f'trap "sleep 0.2; touch $FAKES/caught; exit {after}" TERM'
    process = slurm(f'{trap}; touch $FAKES/started; while :; do sleep 0.05; done', state)
    signal_when(started, process)
    assert process.wait(timeout=30) == after
    assert (fakes.folder / 'caught').exists()
    assert (REQUEUE in fakes.calls) == again


def test_a_second_sigterm_does_not_cut_the_saving_short(fakes, slurm):
    process = slurm('trap "touch $FAKES/one; sleep 0.5; exit 75" TERM; touch $FAKES/up; while :; do sleep 0.05; done')
    signal_when(fakes.folder / 'up', process)
    signal_when(fakes.folder / 'one', process)
    assert process.wait(timeout=30) == 75
    assert REQUEUE in fakes.calls


def test_the_compile_cache_is_shared(fakes, slurm):
    slurm('echo "$JAX_COMPILATION_CACHE_DIR" >"$FAKES/cache"').wait(timeout=30)
    assert (fakes.folder / 'cache').read_text() == '/shared/.jax_cache\n'


def test_settings_of_malloc(fakes, slurm):
    slurm('echo "$MALLOC_ARENA_MAX $MALLOC_MMAP_THRESHOLD_" >"$FAKES/malloc"').wait(timeout=30)
    assert (fakes.folder / 'malloc').read_text() == '2 1048576\n'


def test_directives():
    lines = (ROOT / 'launch/slurm.sbatch').read_text().splitlines()
    given = [line.removeprefix('#SBATCH --') for line in lines if line.startswith('#SBATCH --')]
    directives = dict(line.partition('=')[::2] for line in given)
    assert directives['ntasks-per-node'] == directives['gpus-per-node']
    assert directives['signal'] == 'B:TERM@120'
    assert 'requeue' in directives
    # sbatch reads no directive after the first command.
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith('#'))
    assert max(i for i, line in enumerate(lines) if line.startswith('#SBATCH ')) < first_command
    assert os.access(ROOT / 'launch/slurm.sbatch', os.X_OK)
