"""Searches a mesh and microbatches that fit, on models of a few layers, and confirms what it finds in full."""

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

SHALLOW = (2, 4)  # layers
MOST_TENSOR = 8  # every layer talks over this axis, so large groups are slow
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
    """peak: bytes of one device at full depth, extrapolated unless `full`; None where the compiler named none."""

    candidate: Candidate
    peak: int | None
    fits: bool
    full: bool
    compile_s: float


class Found(NamedTuple):
    """best: the first candidate that is confirmed to fit, with its plan. trials: all that was compiled, in order.

    complete: False where the budget ran out first.
    """

    best: Candidate | None
    measured: Measured | None
    trials: list[Trial]
    complete: bool


def candidates(config: RunConfig, shape: DecoderConfig, topology: Topology) -> Iterator[Candidate]:
    """Meshes and microbatches that the run allows, by rule of thumb the fastest first.

    As few microbatches as possible, then as small a `tensor` axis, which communicates in every layer. The rest of the
    devices are `fsdp`, which needs less memory than `data`; `context` serves where a microbatch has too few rows.
    `train.batch_size` stays.
    """
    count = len(topology.devices)
    contexts = _divisors(count) if splits_context(config) else [1]
    tensors = [size for size in _divisors(count) if size <= MOST_TENSOR]
    for microbatches, tensor, context in itertools.product(_divisors(config.train.batch_size), tensors, contexts):
        if count % (tensor * context) == 0:
            candidate = Candidate(MeshConfig(1, count // (tensor * context), tensor, context), microbatches)
            if _allowed(candidate.apply(config), shape, topology):
                yield candidate


def _allowed(config: RunConfig, shape: DecoderConfig, topology: Topology) -> bool:
    try:
        programs(abstract_run(config, shape, make_mesh(config.mesh, topology.devices)), ('train',))
    except ConfigError:
        return False
    return True


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def extrapolated(peaks: dict[int, int], layers: int) -> int:
    """Peak bytes at that depth, on the line through the peaks at two depths."""
    (low, at_low), (high, at_high) = sorted(peaks.items())
    return round(at_low + (at_high - at_low) / (high - low) * (layers - low))


def compile_train(config: RunConfig, shape: DecoderConfig, topology: Topology) -> Measured:
    """The training step of a run on a slice."""
    mesh = make_mesh(config.mesh, topology.devices)
    (program,) = programs(abstract_run(config, shape, mesh), ('train',))
    return measure(program, mesh, topology)


def shallow_trial(
    candidate: Candidate, config: RunConfig, shape: DecoderConfig, topology: Topology, compile_step: CompileStep
) -> Trial:
    """Compiled at SHALLOW layers, the peak extrapolated to all of them."""
    peaks, seconds = {}, 0.0
    for layers in SHALLOW:
        part = dataclasses.replace(shape, num_hidden_layers=layers)
        measured = compile_step(candidate.apply(config), part, topology)
        seconds += measured.compile_s
        if not measured.fits:  # nor will it with more layers
            return Trial(candidate, measured.needed, False, False, seconds)
        peaks[layers] = measured.needed
    peak = extrapolated(peaks, shape.num_hidden_layers)
    return Trial(candidate, peak, peak <= measured.hbm, False, seconds)


def search(
    config: RunConfig,
    shape: DecoderConfig,
    topology: Topology,
    budget_s: float,
    note: Callable[[str], None],
    compile_step: CompileStep = compile_train,
) -> Found:
    """The first candidate whose training step fits at full depth.

    Every candidate is compiled at 2 and 4 layers; the first that should fit is compiled in full, and the search goes on
    where it does not. Then the candidate before it, the next faster one, is compiled in full too, so that neither
    answer rests on an extrapolation.

    Args:
      budget_s: no compilation is started that should end after that many seconds, going by the longest so far.
      note: gets a line for every candidate.
    """
    until, longest = time.monotonic() + budget_s, 0.0
    trials: list[Trial] = []

    def keep(trial: Trial) -> Trial:
        nonlocal longest
        trials.append(trial)
        longest = max(longest, trial.compile_s)
        note(describe(trial))
        return trial

    def out_of_time() -> bool:
        return time.monotonic() + longest > until

    for candidate in candidates(config, shape, topology):
        if out_of_time():
            return Found(None, None, trials, False)
        if not keep(shallow_trial(candidate, config, shape, topology, compile_step)).fits:
            continue
        if out_of_time():
            return Found(None, None, trials, False)
        measured = compile_step(candidate.apply(config), shape, topology)
        if not keep(Trial(candidate, measured.needed, measured.fits, True, measured.compile_s)).fits:
            continue
        faster = [trial for trial in trials if trial.candidate != candidate]
        if faster and not faster[-1].full:
            if out_of_time():
                return Found(candidate, measured, trials, False)
            other = compile_step(faster[-1].candidate.apply(config), shape, topology)
            found = keep(Trial(faster[-1].candidate, other.needed, other.fits, True, other.compile_s))
            if found.fits:  # the extrapolation was too careful
                return Found(found.candidate, other, trials, True)
        return Found(candidate, measured, trials, True)
    return Found(None, None, trials, True)


def describe(trial: Trial) -> str:
    """One line for the terminal."""
    sizes = [f'{axis} {size}' for axis, size in dataclasses.asdict(trial.candidate.mesh).items() if size > 1]
    peak = 'unknown' if trial.peak is None else f'{trial.peak / 2**30:.2f} GiB'
    how = 'compiled in full' if trial.full else f'from {" and ".join(map(str, SHALLOW))} layers'
    return (
        f'{", ".join(sizes) or "1 device"}, microbatches {trial.candidate.microbatches}: peak {peak} ({how}, '
        f'{trial.compile_s:.0f} s), {"fits" if trial.fits else "does not fit"}'
    )
