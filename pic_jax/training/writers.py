"""Where the numbers of a run go: metrics.jsonl in the workdir, and the terminal."""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pic_jax.errors import PicJaxError
from pic_jax.files import write_text

Record = dict[str, Any]
SPLITS = ('train', 'validation')


class Metrics(Protocol):
    """Takes the records of a run."""

    def write(self, record: Record) -> None:
        """Keeps one record."""


class Several:
    """Gives every record to all of several; to nobody, in the processes that write nothing."""

    def __init__(self, parts: Sequence[Metrics]):
        """See the class."""
        self._parts = parts

    def write(self, record: Record) -> None:
        """To each in turn."""
        for part in self._parts:
            part.write(record)


class MetricsFile:
    """metrics.jsonl: one JSON object a line, flushed to disk as a whole line."""

    def __init__(self, path: Path):
        """Args: the file, which need not be there yet."""
        self.path = path

    def cut(self, last: int) -> list[Record]:
        """Drops the records after step `last`, atomically, and returns the others.

        Raises:
          PicJaxError: a line other than the last (which a kill may have cut) is not a record.
        """
        if not self.path.exists():
            return []
        kept = [(line, record) for line, record in _records(self.path) if record['step'] <= last]
        write_text(self.path, ''.join(line + '\n' for line, _ in kept))
        return [record for _, record in kept]

    def write(self, record: Record) -> None:
        """Appends one record and waits until it is on disk.

        Raises:
          PicJaxError: it cannot be written; a part of the line may be left, which the next start drops.
        """
        line = json.dumps(record, allow_nan=False) + '\n'
        try:
            with self.path.open('a') as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PicJaxError(f'{self.path}: cannot be written: {error.strerror}') from error


def _records(path: Path) -> list[tuple[str, Record]]:
    lines = path.read_bytes().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_record(f'{path}:{number}', line)
        except PicJaxError:
            if number < len(lines):
                raise
        else:
            found.append((line.decode(), record))
    return found


def parse_record(where: str, line: bytes) -> Record:
    """A line of metrics.jsonl.

    Args:
      where: the file and the line's number, for messages.

    Raises:
      PicJaxError: it is not a JSON object with an integer `step` and a `split`.
    """
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise PicJaxError(f'{where}: not valid JSON: {error}') from error
    if not isinstance(record, dict):
        raise PicJaxError(f'{where}: expected a JSON object, not {type(record).__name__}')
    step, split = record.get('step'), record.get('split')
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise PicJaxError(f'{where}: step={step!r} is not valid: expected an integer of at least 0')
    if split not in SPLITS:
        raise PicJaxError(f'{where}: split={split!r} is not valid: expected one of {", ".join(SPLITS)}')
    return record


class Progress(Protocol):
    """Shows a run as it goes."""

    def update(self, step: int, text: str) -> None:
        """Reports that `step` updates are done."""

    def note(self, text: str) -> None:
        """Prints a line of its own."""

    def close(self) -> None:
        """Takes the bar away."""


class SilentProgress:
    """Of the processes that show nothing."""

    def update(self, step: int, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainProgress:
    """Plain lines on stderr, for logs."""

    def update(self, step: int, text: str) -> None:
        """One line."""
        self.note(text)

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to take away."""


class BarProgress:
    """A live bar on a terminal."""

    def __init__(self, total: int, done: int):
        """Starts the bar at `done` of `total` steps."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn('{task.description}'))
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task('', total=total, completed=done)
        self._progress.start()

    def update(self, step: int, text: str) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step, description=text)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, highlight=False)

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        self._progress.stop()


def make_progress(total: int, done: int) -> Progress:
    """A bar where stderr is a terminal, lines elsewhere."""
    return BarProgress(total, done) if sys.stderr.isatty() else PlainProgress()


def not_finite(record: Record) -> str | None:
    """What of a validation record is not finite, with its step; None where all is."""
    wrong = [(name, value) for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    return f'step {record["step"]}: {wrong[0][0]} of the validation is {wrong[0][1]}' if wrong else None


def progress_line(record: Record) -> str:
    """What the terminal shows of a train record."""
    parts = [f'step {record["step"]}']
    parts += [f'loss {record["loss"]:.4f}'] if 'loss' in record else ['skipped']
    parts += [f'{record["tokens_per_s"]:.0f} tokens/s']
    parts += [f'MFU {record["mfu"]:.1%}'] if 'mfu' in record else []
    return '  '.join(parts)


def gap_shares(record: Record) -> str:
    """What the terminal shows of a validation record."""
    shares = {name: value for name, value in record.items() if name.endswith('gap_share')}
    return '  '.join(f'{name} {value:.3f}' for name, value in shares.items())
