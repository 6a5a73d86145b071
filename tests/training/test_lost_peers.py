"""A process that has lost another one of its job ends at once; `tests/faults/test_killed_runs.py` kills a real one."""

import os
import time

import jax
import pytest

from pic_jax.errors import EXIT_LOST, PicJaxError
from pic_jax.training import interruption

RESET = 'UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error [127.0.0.1]:27327: Connection reset by peer'
NCCL = 'INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error.'


class Ended(BaseException):
    """In the place of os._exit."""


def leave(monkeypatch, processes, error, cause=None, finish=lambda: None):
    """Raises errors as one process of so many."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(jax, 'process_count', lambda: processes)
    monkeypatch.setattr(os, '_exit', end)
    with interruption.exit_where_a_peer_is_lost(finish):
        raise error from cause


@pytest.mark.parametrize(
    ('kind', 'text'),
    [(jax.errors.JaxRuntimeError, RESET), (jax.errors.JaxRuntimeError, NCCL), (ValueError, RESET)],
)
def test_the_process_ends_with_one_line(monkeypatch, capsys, kind, text):
    with pytest.raises(Ended, match=str(EXIT_LOST)):
        leave(monkeypatch, 2, kind(f'{text}\nand more'))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'pic-jax: error: another process of the job is gone or out of reach: {text} (process ')


def test_a_save_that_fails_for_it_is_no_trouble_with_the_disk(monkeypatch, capsys):
    cause = ValueError('in a thread')
    cause.__context__ = jax.errors.JaxRuntimeError(RESET)
    with pytest.raises(Ended):
        leave(monkeypatch, 2, PicJaxError('checkpoints/4: cannot be saved'), cause)
    assert capsys.readouterr().err.count(RESET) == 1


def test_what_can_be_finished_is(monkeypatch, capsys):
    """Whatever becomes of it, and not for ever."""
    done, error = [], jax.errors.JaxRuntimeError(RESET)
    with pytest.raises(Ended):
        leave(monkeypatch, 2, error, finish=lambda: done.append(1))
    with pytest.raises(Ended):
        leave(monkeypatch, 2, error, finish=lambda: 1 / 0)
    monkeypatch.setattr(interruption, '_FINISH_S', 0.1)
    started = time.monotonic()
    with pytest.raises(Ended):
        leave(monkeypatch, 2, error, finish=lambda: time.sleep(30))
    assert time.monotonic() - started < 20
    assert done == [1]
    assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize(
    ('processes', 'error'),
    [
        (1, jax.errors.JaxRuntimeError(RESET)),
        (2, jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes')),
        (2, PicJaxError('checkpoints/4: cannot be saved')),
        (2, ValueError('/mnt/data/a.safetensors: Connection reset by peer')),  # of a mounted bucket
        (2, BrokenPipeError(32, 'Broken pipe')),  # of what a tracker talks to
    ],
)
def test_other_errors_go_on(monkeypatch, processes, error):
    with pytest.raises(type(error)) as raised:
        leave(monkeypatch, processes, error)
    assert raised.value is error
