"""When a process joins others, and what it tells them."""

import os
import threading

import jax
import pytest

from pic_jax import distributed
from pic_jax.cli import train
from pic_jax.cli.main import main
from pic_jax.distributed import expected, explicit, start
from pic_jax.errors import EXIT_RESTART, ConfigError, RunInterruptedError

ALONE = [{}, {'SLURM_JOB_ID': '7', 'SLURM_STEP_ID': '0', 'SLURM_NTASKS': '1'}, {'TPU_WORKER_HOSTNAMES': 'localhost'},
         {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8'}]  # fmt: skip
TOGETHER = [
    {'JAX_COORDINATOR_ADDRESS': 'host:1234'},
    {'JAX_NUM_PROCESSES': '4'},
    {'JAX_PROCESS_ID': '0'},
    {'SLURM_STEP_ID': '0', 'SLURM_STEP_NUM_TASKS': '8'},
    {'SLURM_STEP_ID': '0', 'SLURM_NTASKS': '2'},
    {'OMPI_COMM_WORLD_SIZE': '4'},
    {'TPU_WORKER_HOSTNAMES': '10.0.0.1,10.0.0.2'},
    {'MEGASCALE_COORDINATOR_ADDRESS': 'host'},
]


@pytest.mark.parametrize(('environ', 'together'), [(e, False) for e in ALONE] + [(e, True) for e in TOGETHER])
def test_the_environment_says_whether_there_are_others(environ, together):
    """A shell inside a Slurm allocation (no step) is one process, however many tasks the allocation may run."""
    assert expected(environ) is together


def test_the_variables_become_arguments():
    environ = {'JAX_COORDINATOR_ADDRESS': 'host:1234', 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}
    assert explicit(environ) == {'coordinator_address': 'host:1234', 'num_processes': 4, 'process_id': 3}
    assert explicit({'SLURM_JOB_ID': '7'}) == {}


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'JAX_NUM_PROCESSES': 'two'}, "JAX_NUM_PROCESSES='two' is not valid: expected a number"),
        ({'JAX_PROCESS_ID': ''}, "JAX_PROCESS_ID='' is not valid"),
        ({'JAX_PROCESS_ID': '4'}, 'JAX_PROCESS_ID=4 is not valid: expected 0 to 3'),
    ],
)
def test_variables_that_make_no_sense_are_refused(changed, message):
    environ = {'JAX_COORDINATOR_ADDRESS': 'host:1234', 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}
    with pytest.raises(ConfigError, match=message):
        explicit(environ | changed)


def test_variables_that_are_missing_are_named():
    with pytest.raises(ConfigError, match=r'^JAX_COORDINATOR_ADDRESS not set: expected all or none of JAX_COORD'):
        explicit({'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'})
    with pytest.raises(ConfigError, match=r'^JAX_NUM_PROCESSES and JAX_PROCESS_ID not set'):
        explicit({'JAX_COORDINATOR_ADDRESS': 'host:1234'})


TRAIN = ['train', '--config=none.py', '--workdir=none']


def test_after_an_error_a_job_is_left_if_the_others_leave_too(monkeypatch):
    """A process whose peers wait for it in a step is told so, and not only after JAX's five minutes."""
    monkeypatch.setattr(distributed, '_LEAVE_S', 0.2)
    others = threading.Event()
    monkeypatch.setattr(jax.distributed, 'shutdown', others.wait)
    assert not distributed.left()
    others.set()
    assert distributed.left()


@pytest.mark.parametrize(
    ('error', 'code'), [(ConfigError('no'), 2), (OSError(28, 'full'), 1), (ZeroDivisionError(), 1)]
)
def test_a_process_that_failed_alone_ends_at_once(monkeypatch, capsys, error, code):
    """With its message and its own exit code; that of a preemption, which all have, is never cut short."""

    def fail(_):
        raise error

    def ended(code):
        raise SystemExit(f'ended with {code}')

    monkeypatch.setattr(train, 'run', fail)
    monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(distributed, 'left', lambda: False)
    monkeypatch.setattr(os, '_exit', ended)
    with pytest.raises(SystemExit, match=f'ended with {code}'):
        main(TRAIN)
    assert capsys.readouterr().err
    error = RunInterruptedError('told to stop')
    assert main(TRAIN) == EXIT_RESTART


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match='--distributed=maybe is not valid: expected one of auto, on, off'):
        start('maybe')
