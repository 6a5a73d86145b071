"""tpu_worker.sh on a machine with its own home: what it starts outlives a connection, and is started once."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Counts its starts, waits for $HOME/go, saves on SIGTERM as pic-jax does.
PIC_JAX = """#!/usr/bin/env bash
echo start >>"$HOME/starts"
echo "$MALLOC_ARENA_MAX $MALLOC_MMAP_THRESHOLD_" >"$HOME/malloc"
trap 'echo saved; exit 75' TERM
echo "arguments: $*"
until [[ -e $HOME/go ]]; do sleep 0.05; done
exit "$(cat "$HOME/go")"
"""


class Worker:
    def __init__(self, home: Path):
        self.home = home
        (home / 'pic_jax_venv/bin').mkdir(parents=True)
        command = home / 'pic_jax_venv/bin/pic-jax'
        command.write_text(PIC_JAX)
        command.chmod(0o755)
        (home / 'pic_jax').mkdir()
        shutil.copytree(ROOT / 'launch', home / 'pic_jax/launch')

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.home / 'pic_jax/launch/tpu_worker.sh', *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=os.environ | {'HOME': str(self.home)},
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def end(self, code: int) -> None:
        (self.home / 'go').write_text(str(code))

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while not (self.home / name).exists():
            assert time.monotonic() < deadline, f'{name} did not appear'
            time.sleep(0.02)

    @property
    def starts(self) -> int:
        return len((self.home / 'starts').read_text().splitlines())


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.end(0)


@pytest.mark.parametrize(('code', 'arrives'), [(0, 0), (1, 101), (2, 102), (75, 75), (134, 134)])
def test_exit_codes(worker, code, arrives):
    worker.end(code)
    assert worker.run('run', 'a', 'train', '--workdir=/mnt/pic_jax/x y') == (
        arrives,
        'arguments: train --workdir=/mnt/pic_jax/x y\n',
    )
    assert (worker.home / 'malloc').read_text() == '2 1048576\n'


def test_a_lost_connection_ends_nothing_and_starts_nothing(worker):
    first = worker.start('run', 'a', 'train')
    worker.wait_for('pic_jax_run/pid')
    worker.wait_for('starts')
    first.send_signal(signal.SIGHUP)
    first.wait(timeout=10)
    again = worker.start('run', 'a', 'train')
    other = worker.start('run', 'b', 'train')  # asked for while it runs: follows
    assert [process.stdout.readline() for process in (again, other)] == ['arguments: train\n'] * 2  # both follow
    worker.end(75)
    for process in (again, other):
        assert (process.stdout.read(), process.wait(timeout=30)) == ('', 75)
    assert worker.starts == 1


def test_a_finished_run_is_not_started_again_under_its_id(worker):
    worker.end(75)
    assert worker.run('run', 'a', 'train')[0] == 75
    worker.end(0)
    assert worker.run('run', 'a', 'train')[0] == 75
    assert worker.starts == 1
    assert worker.run('run', 'b', 'train')[0] == 0
    assert worker.starts == 2


def test_stop_lets_the_training_save(worker):
    process = worker.start('run', 'a', 'train')
    worker.wait_for('starts')
    assert worker.run('stop')[0] == 0
    output, _ = process.communicate(timeout=30)
    assert (output.splitlines()[-1], process.returncode) == ('saved', 75)


def test_a_killed_training_has_no_exit_code_of_its_own(worker):
    process = worker.start('run', 'a', 'train')
    worker.wait_for('starts')
    os.killpg(int((worker.home / 'pic_jax_run/pid').read_text()), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 137


@pytest.mark.parametrize('storage', [('nfs', '10.0.0.2:/share'), ('bucket', 'runs'), ()])
def test_setup_mounts_storage_and_installs_with_constraints(fakes, worker, storage):
    for name in ('sudo', 'gcsfuse', 'mount.nfs', 'python3', 'uv'):
        fakes.add(name)
    fakes.add('mountpoint', 'exit 1')
    (worker.home / '.local/bin').mkdir(parents=True)
    (worker.home / '.local/bin/uv').symlink_to(fakes.folder / 'bin/uv')
    script = worker.home / 'pic_jax/launch/tpu_worker.sh'
    subprocess.run([script, 'setup', *storage], env=fakes.environment | {'HOME': str(worker.home)}, check=True)
    calls = [' '.join(call) for call in fakes.calls]
    mounts = [call for call in calls if call.startswith(('sudo mount ', 'gcsfuse '))]
    assert [call.split()[-2:] for call in mounts] == ([[storage[1], '/mnt/pic_jax']] if storage else [])
    assert '--build-constraint constraints.txt --constraint constraints.txt --editable .[tpu]' in calls[-1]
