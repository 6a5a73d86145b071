"""Searches a mesh and microbatches that fit, by compiling the training step in full and drawing a line through peaks.

Layers are a loop in the program, so that a model of two layers takes the compiler as long as one of all its layers:
what is saved is compilations, not depth.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pic_jax.config import DecoderConfig, MeshConfig, RunConfig
from pic_jax.errors import ConfigError
from pic_jax.planning.measure import Measured, measure
from pic_jax.planning.programs import abstract_run, programs
from pic_jax.planning.topology import Topology
from pic_jax.training.sharding import make_mesh, splits_context

MOST_TENSOR = 8  # every layer talks over this axis, so large groups are slow
FIRST_ROWS = 4  # of a microbatch that a device has in the first program that is compiled
CompileStep = Callable[[RunConfig, DecoderConfig, Topology], Measured]


class Candidate(NamedTuple):
    """What is searched: the mesh's sizes and the microbatches of a step."""

    mesh: MeshConfig
    microbatches: int

    def overrides(self) -> list[str]:
        """Words for the command line."""
        sizes = [f'--config.mesh.{axis}={size}' for axis, size in dataclasses.asdict(self.mesh).items()]
        return [*sizes, f'--config.train.microbatches={self.microbatches}']

    def apply(self, config: RunConfig) -> RunConfig:
        """The run with this mesh and these microbatches."""
        train = dataclasses.replace(config.train, microbatches=self.microbatches)
        return dataclasses.replace(config, mesh=self.mesh, train=train)


class Trial(NamedTuple):
    """peak: bytes of one device; None where the compiler named none."""

    candidate: Candidate
    peak: int | None
    fits: bool
    compile_s: float


class Found(NamedTuple):
    """best: the fastest candidate that fits, with its plan. trials: all that was compiled, in order.

    complete: the next faster candidate was compiled too, and does not fit. False where the budget ran out first.
    """

    best: Candidate | None
    measured: Measured | None
    trials: list[Trial]
    complete: bool


def candidates(config: RunConfig, shape: DecoderConfig, topology: Topology) -> Iterator[list[Candidate]]:
    """Settings that the run allows, by mesh, and on each mesh by microbatches: by rule of thumb the fastest first.

    First as small a `tensor` axis as possible, which communicates in every layer, then as few microbatches, which each
    gather the weights. The rest of the devices are `fsdp`, which needs less memory than `data`; `context` serves where
    a microbatch has too few rows. `train.batch_size` stays.
    """
    count = len(topology.devices)
    contexts = _divisors(count) if splits_context(config) else [1]
    tensors = [size for size in _divisors(count) if size <= MOST_TENSOR]
    for tensor, context in itertools.product(tensors, contexts):
        if count % (tensor * context) == 0:
            mesh = MeshConfig(1, count // (tensor * context), tensor, context)
            settings = [Candidate(mesh, microbatches) for microbatches in _divisors(config.train.batch_size)]
            if allowed := [each for each in settings if _allowed(each.apply(config), shape, topology)]:
                yield allowed


def _allowed(config: RunConfig, shape: DecoderConfig, topology: Topology) -> bool:
    try:
        programs(abstract_run(config, shape, make_mesh(config.mesh, topology.devices)), ('train',))
    except ConfigError:
        return False
    return True


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def on_line(points: dict[float, int], rows: float) -> float:
    """Bytes at that many rows, on the line through the two points with the most of them."""
    (few, at_few), (many, at_many) = sorted(points.items())[-2:]
    return at_few + (at_many - at_few) / (many - few) * (rows - few)


def compile_train(config: RunConfig, shape: DecoderConfig, topology: Topology) -> Measured:
    """The training step of a run on a slice."""
    mesh = make_mesh(config.mesh, topology.devices)
    (program,) = programs(abstract_run(config, shape, mesh), ('train',))
    return measure(program, mesh, topology)


def search(
    config: RunConfig,
    shape: DecoderConfig,
    topology: Topology,
    budget_s: float,
    note: Callable[[str], None],
    compile_step: CompileStep = compile_train,
) -> Found:
    """The fewest microbatches with which the training step fits, on the first mesh that has any.

    The first program has few rows; those after it are what a line through the peaks so far says will fit, until one
    fits whose faster neighbour does not. Everything that is answered was compiled.

    Args:
      budget_s: no compilation is started that should end after that many seconds, going by the longest so far.
      note: gets a line for everything that is compiled.
    """
    until, longest, trials = time.monotonic() + budget_s, 0.0, []
    for settings in candidates(config, shape, topology):
        rows = [config.train.batch_size / each.microbatches for each in settings]
        tried: dict[int, Measured] = {}
        at = next((i for i, number in enumerate(rows) if number <= FIRST_ROWS * len(topology.devices)), len(rows) - 1)
        while at not in tried and time.monotonic() + longest <= until:
            tried[at] = measured = compile_step(settings[at].apply(config), shape, topology)
            trials.append(Trial(settings[at], measured.needed, measured.fits, measured.compile_s))
            note(describe(trials[-1]))
            longest, at = max(longest, measured.compile_s), following(rows, tried)
        best = min((i for i, measured in tried.items() if measured.fits), default=None)
        if best is not None:
            return Found(settings[best], tried[best], trials, at in tried)
        if at not in tried:
            return Found(None, None, trials, False)
    return Found(None, None, trials, True)


def following(rows: list[float], tried: dict[int, Measured]) -> int:
    """Which setting to compile next: its place; or a place that is tried already, where nothing is left to do.

    Args:
      rows: of a microbatch, per setting, descending. tried: what was compiled, by place.
    """
    best = min((i for i, measured in tried.items() if measured.fits), default=len(rows))
    too_large = max((i for i in tried if i < best), default=-1)
    if best == len(rows):
        return len(rows) - 1  # the least that can be asked for; if that is too large, nothing fits
    if too_large == best - 1:
        return best
    points = {rows[i]: measured.needed for i, measured in tried.items() if measured.needed is not None}
    memory = tried[best].memory
    if len(points) == 1 and memory is not None:
        points[0.0] = memory.arguments
    fitting = (i for i in range(too_large + 1, best) if on_line(points, rows[i]) <= tried[best].hbm)
    return next(fitting, best - 1)


def describe(trial: Trial) -> str:
    """One line for the terminal."""
    sizes = [f'{axis} {size}' for axis, size in dataclasses.asdict(trial.candidate.mesh).items() if size > 1]
    peak = 'unknown' if trial.peak is None else f'{trial.peak / 2**30:.2f} GiB'
    return (
        f'{", ".join(sizes) or "1 device"}, microbatches {trial.candidate.microbatches}: peak {peak} '
        f'({trial.compile_s:.0f} s), {"fits" if trial.fits else "does not fit"}'
    )
