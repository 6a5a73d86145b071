"""TPU slices that one does not have: their devices, as the compiler describes them, and what the hardware can do."""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.experimental import topologies

from pic_jax.errors import ConfigError, PicJaxError, first_line
from pic_jax.hardware import CHIPS, Chip

# libtpu asks the machine what it is; these answers keep it from asking the cloud, complaining, or taking a lock.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_MIN_LOG_LEVEL': '3',
    'TF_CPP_MIN_LOG_LEVEL': '3',
}


class Topology(NamedTuple):
    """chip: of each device. devices: descriptions, on which nothing can run."""

    chip: Chip
    devices: tuple[jax.Device, ...]


def find(name: str) -> Topology:
    """The slice of that name, e.g. `v5e:4x4` or `v5p:4x4x4`.

    Raises:
      ConfigError: there is no such slice.
      PicJaxError: libtpu, which knows the slices and compiles for them, is not installed.
    """
    kind, _, shape = name.partition(':')
    if kind not in CHIPS or not shape:
        raise ConfigError(f'--topology={name} is not valid: expected e.g. {_examples()}')
    chip = CHIPS[kind]
    valid = f'expected e.g. {_examples(kind)}, at most {kind}:{chip.largest}'
    same_dimensions = re.fullmatch(r'\d+(x\d+)*', shape) and shape.count('x') == chip.largest.count('x')
    if not same_dimensions or _chips(shape) > _chips(chip.largest):
        raise ConfigError(f'--topology={name} is not valid: {valid}')
    if importlib.util.find_spec('libtpu') is None:
        raise PicJaxError('planning for a TPU needs its compiler: pip install "pic_jax[aot]" (libtpu, 200 MB, no TPU)')
    try:
        with _environment():
            described = topologies.get_topology_desc(platform='tpu', topology_name=name, chip_config_name=chip.config)
    except Exception as error:  # libtpu's own, of several types
        reason = first_line(error).removeprefix('INVALID_ARGUMENT: ')
        raise ConfigError(f'--topology={name} is not valid ({reason}): {valid}') from error
    return Topology(chip, tuple(described.devices))


def _chips(shape: str) -> int:
    return math.prod(int(size) for size in shape.split('x'))


def _examples(*kinds: str) -> str:
    return ', '.join(f'{kind}:{shape}' for kind in kinds or CHIPS for shape in CHIPS[kind].examples)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Sets what is not set, and takes it back: other code reads some of these variables too."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
