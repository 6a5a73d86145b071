"""What ends a run early from outside: a machine that is taken away, or another host that no longer answers."""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from pic_jax.errors import EXIT_LOST, EXIT_RESTART, first_line

# What the runtime's errors say where another process has died: gloo's sockets, NCCL, JAX's coordination service.
_LOST = ('Connection reset by peer', 'Connection closed by peer', 'Broken pipe', 'remote process exited',
         'heartbeat timeout')  # fmt: skip
_RAISED = (jax.errors.JaxRuntimeError, ValueError)  # the latter where a program is started, as by Orbax's barriers
_STATUS = re.compile(r'[A-Z_]+: ')  # how texts of the runtime begin
_FINISH_S = 20.0
_CALLS = itertools.count(1)  # of all runs of the process: the preemption service is one, too


class Preemption:
    """Notices SIGTERM, which clouds and schedulers send before they take a machine away.

    With several processes the sign comes from JAX's preemption service, so that all of them save at the same step. It
    agrees on the call after the last one that any process has made, and says yes at that call alone. Calls are
    therefore counted from 1 on: by its step a resumed run's first call would already be beyond what was agreed on
    before it, and SIGTERM lost.
    """

    def __init__(self):
        """Handles SIGTERM until `close`, where this is the main thread of a single process."""
        self._told = False
        self._before = None
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self) -> bool:
        """Whether the run must save and stop after this step; the same answer in every process, which all ask alike."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(next(_CALLS))

    def close(self) -> None:
        """Gives SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


class Watchdog:
    """Ends the process when no step has finished for too long, as when a host of a collective operation is gone.

    Such a process hangs inside the runtime, where no exception reaches it: it exits with `EXIT_RESTART`, and the
    launcher's next start goes on from the last checkpoint.
    """

    def __init__(self, timeout_s: float):
        """Starts at the first `fed`, so that compilation may take its time."""
        self._timeout_s, self._step, self._deadline = timeout_s, 0, float('inf')
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def fed(self, step: int) -> None:
        """Step `step` has finished."""
        self._step, self._deadline = step, time.monotonic() + self._timeout_s

    def rest(self) -> None:
        """Stops the clock until the next `fed`: validations and checkpoints take longer than steps."""
        self._deadline = float('inf')

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() > self._deadline:
                print(
                    f'pic-jax: error: no step has finished for train.stall_timeout_s={self._timeout_s:g} seconds since '
                    f'step {self._step} (process {jax.process_index()} of {jax.process_count()}, host '
                    f'{os.uname().nodename}): another host may have stopped. Run the same command again on all hosts.',
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_RESTART)


@contextlib.contextmanager
def exit_where_a_peer_is_lost(finish: Callable[[], None]) -> Iterator[None]:
    """Ends the process with `EXIT_LOST` where an error of the runtime says that another process of the job has died.

    It ends at once: a normal exit waits for all processes, until JAX aborts it a minute later with the same exit code.

    Args:
      finish: what may still be done without the others, for `_FINISH_S` at most: a save that lacks its last move.
    """
    try:
        yield
    except Exception as error:
        said = _of_a_lost_peer(error)
        if not said or jax.process_count() == 1:
            raise
        print(
            f'pic-jax: error: another process of the job is gone or out of reach: {said} (process '
            f'{jax.process_index()} of {jax.process_count()}, host {os.uname().nodename}). If it died, its own log '
            'says why; the same command on all hosts goes on from the last checkpoint.',
            file=sys.stderr,
            flush=True,
        )
        finishing = threading.Thread(target=_quietly, args=(finish,), daemon=True)
        finishing.start()
        finishing.join(_FINISH_S)
        os._exit(EXIT_LOST)


def _quietly(finish: Callable[[], None]) -> None:
    with contextlib.suppress(Exception):  # the peer is missed there, too
        finish()


def _of_a_lost_peer(error: BaseException | None) -> str:
    """What the runtime's error says that is this one or led to it; empty where that is no lost peer."""
    while error is not None:
        of_runtime = isinstance(error, _RAISED) and _STATUS.match(str(error))
        if of_runtime and any(mark in str(error) for mark in _LOST):
            return first_line(error)
        error = error.__cause__ or error.__context__
    return ''
