"""Compiles a program ahead of time and says what it needs: memory, operations, communication, time at best."""

import re
import time
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from pic_jax.evaluation.flops import count_flops
from pic_jax.planning import hlo
from pic_jax.planning.collectives import Collective, collectives
from pic_jax.planning.programs import Program
from pic_jax.planning.roofline import Roofline, roofline
from pic_jax.planning.topology import Topology
from pic_jax.planning.traffic import hbm_traffic

_UNITS = {'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_REFUSED = re.compile(r'\(([\d.]+)([BKMGT])\) exceeds available HBM \(([\d.]+)([BKMGT])\)')


class Memory(NamedTuple):
    """Bytes of one device, as the compiler plans them.

    Attributes:
      arguments, outputs, temporaries: outputs in donated arguments count in both. peak: the most at one time, which
        is what has to fit.
    """

    arguments: int
    outputs: int
    temporaries: int
    peak: int


class Measured(NamedTuple):
    """What a program needs on each device.

    Attributes:
      needed: peak bytes, or what the compiler said it needs where it refused (None if it did not say).
      memory, collectives, hbm_bytes, roofline: None where it did not fit.
      flops: of the whole program over the number of devices.
    """

    program: Program
    devices: int
    hbm: int
    needed: int | None
    flops: float
    compile_s: float
    memory: Memory | None = None
    collectives: list[Collective] | None = None
    hbm_bytes: int | None = None
    roofline: Roofline | None = None

    @property
    def fits(self) -> bool:
        """Whether the program compiled, and its peak is no more than there is."""
        return self.memory is not None and self.needed is not None and self.needed <= self.hbm


def measure(program: Program, mesh: Mesh, topology: Topology) -> Measured:
    """Lowers and compiles; nothing runs."""
    devices = len(topology.devices)
    with jax.set_mesh(mesh):
        flops = count_flops(program.function, *program.arguments, rounds=program.rounds) / devices
        started = time.perf_counter()
        try:
            compiled = program.function.lower(*program.arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            needed, hbm = refused(str(error))
            return Measured(program, devices, hbm or topology.chip.hbm_bytes, needed, flops, _since(started))
    seconds, module, stats = _since(started), hlo.parse(compiled.as_text()), compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.peak_memory_in_bytes,
    )
    found, moved = collectives(module, program.rounds), hbm_traffic(module, program.rounds)
    estimate = roofline(topology.chip, flops, moved, found)
    return Measured(
        program, devices, topology.chip.hbm_bytes, memory.peak, flops, seconds, memory, found, moved, estimate
    )


def refused(message: str) -> tuple[int | None, int | None]:
    """Bytes needed and bytes available in the compiler's refusal, where it names them."""
    named = _REFUSED.search(message)
    if named is None:
        return None, None
    needed, available = (int(float(named[i]) * _UNITS[named[i + 1]]) for i in (1, 3))
    return needed, available


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 1)
