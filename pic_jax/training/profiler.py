"""A trace of some steps of a run, for XProf and Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pic_jax.distributed import is_main


def clipped(steps: range, start: int, last: int, note: Callable[[str], None]) -> range:
    """The part of the steps to trace that this process runs and traces: the main one traces, after step `start`."""
    if not steps or not is_main():
        return range(0)
    part = range(max(steps.start, start + 1), min(steps.stop, last + 1))
    if not part:
        note(f'--profile_steps={steps[0]}:{steps[-1]}: nothing to trace, this start runs steps {start + 1} to {last}')
    return part


class Profiler:
    """Traces the steps of a range; the trace goes to WORKDIR/profile."""

    def __init__(self, folder: Path, steps: range):
        """Args: steps: to trace, counted from 1; empty for none."""
        self._folder, self._steps, self._active = folder, steps, False

    def before(self, step: int) -> None:
        """Step `step` is about to be dispatched."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._active = True

    def after(self, step: int, values: Any) -> str:
        """Step `step` has been dispatched, and gives these values. Returns a line to print, or ''."""
        if not self._active or step != self._steps[-1]:
            return ''
        jax.block_until_ready(values)
        self.close()
        return f'traced steps {self._steps[0]} to {step}: {self._folder}'

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
