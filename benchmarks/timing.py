"""Sides of a comparison that take turns: each in a process of its own, all on the same cores."""

import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from peak_memory import peak_memory

# What a side can compute, by name. Every call returns when its result is there.
Side = dict[str, Callable[[], Any]]
# Makes a side, or gives the one that its process has made before; picklable, as a partial of a module's function is.
OpenSide = Callable[[], Side]
TURN_S = 2.0


class Ratio(NamedTuple):
    """Of the times of two sides in the same rounds: median, least and greatest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]'


@contextlib.contextmanager
def pinned(count: int) -> Iterator[None]:
    """Keeps this thread, and the processes that it starts meanwhile, on the first `count` of its cores.

    Libraries that are first imported in such a process make as many threads as it has cores.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def worker() -> ProcessPoolExecutor:
    """A process that keeps what it has built between calls, and waits on a pipe while another one has its turn.

    One process for each library: OpenMP and XLA threads of one process would wait for work on the same cores.
    """
    return ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))


def result_of(open_side: OpenSide, what: str) -> Any:
    """What the side computes."""
    return open_side()[what]()


def seconds_of(open_side: OpenSide, what: str) -> float:
    """How long the side takes to compute it."""
    call = open_side()[what]
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(programs: dict[str, Callable[..., Any]], inputs: Sequence[Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call in every round by program; they take turns in this process. Call each once before, to warm up.

    In its turn a program runs for TURN_S at least, and the mean of its calls counts: the first call of a short program
    finds caches and memory as a long one left them, and would be timed for that.
    """
    seconds = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            seconds[name].append(turn(program, inputs))
    return seconds


def turn(program: Callable[..., Any], inputs: Sequence[Any]) -> float:
    """Seconds of a call, the mean of as many as fill TURN_S."""
    import jax

    started = time.perf_counter()
    for calls in itertools.count(1):
        jax.block_until_ready(program(*inputs))
        passed = time.perf_counter() - started
        if passed >= TURN_S:
            return passed / calls


def peak_of(open_side: OpenSide, what: str) -> int:
    """Bytes of anonymous memory at the most during a call, beyond what the process has between calls.

    The first call is not measured: it may compile. What it left in the allocator goes back to the system before the
    second one, which would find it there and look smaller.
    """
    call = open_side()[what]
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with peak_memory() as peak:
        call()
    return peak.bytes


def ratio(seconds: Sequence[float], to: Sequence[float]) -> Ratio:
    """Of every round's seconds to the other side's in that round."""
    ratios = [a / b for a, b in zip(seconds, to, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
