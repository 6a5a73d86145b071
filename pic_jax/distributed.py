"""Several processes as one job: jax.distributed, started where the environment says that there are others."""

import os
import threading
from typing import Any

import jax

from pic_jax.errors import ConfigError, PicJaxError, first_line

MODES = ('auto', 'on', 'off')
_LEAVE_S = 120.0  # JAX finds out that a process is dead in 100
EXPLICIT = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


def start(mode: str) -> None:
    """Joins the job's other processes; call it before anything asks JAX for devices.

    The address of process 0, the number of processes and this one's number come from JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or from what JAX finds by itself: Slurm, Open MPI, Cloud TPU, GKE.

    Args:
      mode: `auto` joins where `expected`; `on` always; `off` never.

    Raises:
      ConfigError: the mode is not valid, or a variable is missing or not a number.
      PicJaxError: the other processes cannot be reached.
    """
    if mode not in MODES:
        raise ConfigError(f'--distributed={mode} is not valid: expected one of {", ".join(MODES)}')
    if mode == 'off' or (mode == 'auto' and not expected(os.environ)):
        return
    jax.config.update('jax_enable_preemption_service', True)
    try:
        jax.distributed.initialize(**explicit(os.environ))
    except (ValueError, RuntimeError) as error:
        raise PicJaxError(
            f'--distributed={mode}: cannot join the other processes ({first_line(error)}); '
            f'set {", ".join(EXPLICIT)} where JAX does not know the launcher'
        ) from error


def left() -> bool:
    """Leaves the job after an error; False where the other processes do not within `_LEAVE_S`.

    They then wait in a step for this one, which has to end by `os._exit`: a normal exit waits for them for five
    minutes, and then JAX aborts all. Of an error that all have, the first waits for the last; where one of them is
    dead, JAX aborts this one meanwhile.
    """
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(_LEAVE_S)
    return not leaving.is_alive()


def expected(environ: os._Environ | dict[str, str]) -> bool:
    """Whether the environment is that of one process among several."""
    if any(name in environ for name in EXPLICIT):
        return True
    if environ.get('SLURM_STEP_ID') and int(environ.get('SLURM_STEP_NUM_TASKS', environ.get('SLURM_NTASKS', '1'))) > 1:
        return True
    if int(environ.get('OMPI_COMM_WORLD_SIZE', '1')) > 1:
        return True
    return len(environ.get('TPU_WORKER_HOSTNAMES', '').split(',')) > 1 or 'MEGASCALE_COORDINATOR_ADDRESS' in environ


def explicit(environ: os._Environ | dict[str, str]) -> dict[str, Any]:
    """The arguments of jax.distributed.initialize that the variables in EXPLICIT give; {} without them.

    Raises:
      ConfigError: one is missing or not a number.
    """
    missing = [name for name in EXPLICIT if name not in environ]
    if len(missing) == len(EXPLICIT):
        return {}
    if missing:
        raise ConfigError(f'{" and ".join(missing)} not set: expected all or none of {", ".join(EXPLICIT)}')
    address, *numbers = EXPLICIT
    for name in numbers:
        if not environ[name].isdigit():
            raise ConfigError(f'{name}={environ[name]!r} is not valid: expected a number beside {address}')
    count, index = (int(environ[name]) for name in numbers)
    if index >= count:
        raise ConfigError(f'{numbers[1]}={index} is not valid: expected 0 to {count - 1}')
    return {'coordinator_address': environ[address], 'num_processes': count, 'process_id': index}


def is_main() -> bool:
    """Whether this process writes what the job leaves once: settings, metrics, reports."""
    return jax.process_index() == 0
