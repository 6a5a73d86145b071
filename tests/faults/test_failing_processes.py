"""Jobs of two processes of which one fails, or both do."""

import signal
import time

import killed_runs as runs
import pytest

from pic_jax.errors import EXIT_LOST

FULL = 'No space left on device'
MAIN = """
import os, sys, time
from pic_jax import distributed
from pic_jax.cli.main import main
from pic_jax.errors import ConfigError
from pic_jax.training import loop

distributed._LEAVE_S = 8.0


def refuse(*_):
    time.sleep(3 * int(os.environ['JAX_PROCESS_ID']))
    raise ConfigError('refused')


if 'REFUSED' in os.environ:
    loop.compare_config = refuse
sys.exit(main())
"""


def errors(workdir, process):
    return [line for line in runs.log(workdir, process).read_text().splitlines() if line.startswith('pic-jax: error:')]


@pytest.mark.slow
def test_one_that_cannot_write_ends_all(disk):
    """It waited five minutes for the other, which waited for it in a step; then JAX aborted both."""
    workdir = disk.path
    running = runs.start(workdir, 2, program=('-c', MAIN))
    deadline = time.monotonic() + runs.LIMIT_S
    while runs.saved_step(workdir) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    disk.fill(free=0)
    codes = runs.ended(running, limit_s=120)
    assert codes[0] == 1, runs.log(workdir).read_text()
    assert codes[1] in (EXIT_LOST, -signal.SIGABRT), runs.log(workdir, 1).read_text()
    (line,) = errors(workdir, 0)
    assert FULL in line
    disk.clear()
    saved = runs.saved_step(workdir)
    assert runs.ended(runs.start(workdir, 2)) == [0, 0]
    assert runs.resumed_from(workdir) == saved >= 8


@pytest.mark.slow
def test_what_both_are_refused_both_say(tmp_path):
    """The first waits for the last: without process 0 the other would be aborted before it has said why."""
    assert runs.ended(runs.start(tmp_path / 'run', 2, program=('-c', MAIN), REFUSED='1')) == [2, 2]
    assert [errors(tmp_path / 'run', process) for process in (0, 1)] == [['pic-jax: error: refused']] * 2
