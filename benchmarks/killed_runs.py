"""Trainings that are killed and started again, in one process or several, and what they may leave behind."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pic_jax.training.telemetry import MEASURED

CONFIG = Path(__file__).with_name('short_run.py')
UNFINISHED = '*.orbax-checkpoint-tmp*'  # what Orbax calls a checkpoint that it is still writing
LIMIT_S = 900  # no start takes as long, on a busy machine neither


@dataclasses.dataclass(frozen=True)
class Moment:
    """When and how a run is killed.

    Attributes:
      signal: SIGKILL or SIGTERM.
      event: what is waited for: `start` (nothing), `record` or `save` (the beginning of one).
      count: how many of these this start has to see. pause_s: how long the kill waits after that.
      targets: processes that get the signal, in this order. gap_s: between two of them.
    """

    signal: str
    event: str
    count: int
    pause_s: float
    targets: tuple[int, ...]
    gap_s: float


def draw(seed: int, name: str, processes: int) -> Moment:
    """The moment of a seed. Half are the beginning of a save and up to the time that one takes.

    It goes to all processes or to one. The others notice: of SIGTERM they are told, of SIGKILL they lose a peer (once
    they have one: those that still join wait for minutes).
    """
    rng = random.Random(f'{name} {processes} {seed}')
    event = rng.choice(['save', 'save', 'save', 'record', 'record', 'start'])
    pauses = {'save': 0.3, 'record': 0.2, 'start': 12.0}
    targets = rng.sample(range(processes), processes)
    if (name, event) != ('SIGKILL', 'start'):
        targets = targets[: rng.choice([1, processes])]
    return Moment(
        name, event, rng.randint(1, 3 if event == 'save' else 10), round(rng.uniform(0, pauses[event]), 3),
        tuple(targets), round(rng.uniform(0, 0.1), 3),
    )  # fmt: skip


def start(
    workdir: Path,
    processes: int = 1,
    words: Iterable[str] = (),
    config: Path = CONFIG,
    program: tuple[str, ...] = ('-m', 'pic_jax.cli.main'),
    **environment: str,
) -> list[subprocess.Popen]:
    """`pic-jax train` of a configuration file in that many processes; stderr goes to WORKDIR.<process>.log.

    Args:
      words: more of the command line. program: what Python runs. environment: variables beside our own.
    """
    names = {}
    if processes > 1:
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        names = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(processes)}
    env = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'} | environment | names
    command = [sys.executable, *program, 'train', f'--config={config}', f'--workdir={workdir}', *words]
    running = []
    for index in range(processes):
        with log(workdir, index).open('w') as stderr:
            each = env | ({'JAX_PROCESS_ID': str(index)} if names else {})
            running.append(subprocess.Popen(command, env=each, stdout=subprocess.DEVNULL, stderr=stderr))
    return running


def log(workdir: Path, process: int = 0) -> Path:
    """Where `start` sends the stderr of a process."""
    return workdir.with_name(f'{workdir.name}.{process}.log')


def ended(running: list[subprocess.Popen], limit_s: float = LIMIT_S) -> list[int]:
    """Exit codes; what has not ended by then is killed."""
    deadline = time.monotonic() + limit_s
    try:
        for process in running:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in running:
            process.kill()
    return [process.wait() for process in running]


class Killed(NamedTuple):
    """What a kill found and left.

    Attributes:
      exit_codes: of the processes. in_save: whether the start was saving: of SIGTERM, when it came; of SIGKILL, what
        it left says so.
      deaf_s: of the steps that were made after the signal; the first of them may have waited for a compiler.
    """

    exit_codes: list[int]
    in_save: bool
    deaf_s: float


def kill(running: list[subprocess.Popen], workdir: Path, moment: Moment) -> Killed:
    """Waits for the moment and sends the signals."""
    started = time.time()
    wait_for(running, workdir, moment)
    time.sleep(moment.pause_s)
    saving, reached = unfinished(workdir, started), max((step for step, _ in laps(workdir)), default=0)
    for target in moment.targets:
        running[target].send_signal(getattr(signal, moment.signal))
        time.sleep(moment.gap_s)
    codes = ended(running)
    in_save = bool(unfinished(workdir, started) if moment.signal == 'SIGKILL' else saving)
    return Killed(codes, in_save, deaf_s(workdir, reached))


def deaf_s(workdir: Path, reached: int) -> float:
    """Seconds of the steps after `reached`, without the first of them."""
    after = [seconds for step, seconds in laps(workdir) if step > reached]
    return round(sum(after[1:]), 3)


def wait_for(running: list[subprocess.Popen], workdir: Path, moment: Moment) -> None:
    """Returns when the event has been seen as often as it shall, or a process has ended."""
    had, saves = len(lines(workdir)), set(unfinished(workdir))
    seen, deadline = 0, time.monotonic() + LIMIT_S
    while moment.event != 'start' and seen < moment.count and time.monotonic() < deadline:
        if any(process.poll() is not None for process in running):
            return
        time.sleep(0.005)
        if moment.event == 'record':
            seen = len(lines(workdir)) - had
        else:
            now = set(unfinished(workdir))
            seen, saves = seen + len(now - saves), now


def lines(workdir: Path) -> list[bytes]:
    """The lines of metrics.jsonl, of which the last may be cut."""
    path = workdir / 'metrics.jsonl'
    return path.read_bytes().splitlines() if path.exists() else []


def unfinished(workdir: Path, since: float = 0.0) -> list[str]:
    """Checkpoints that Orbax has begun after that time (seconds since the epoch) and not finished."""
    return [path.name for path in (workdir / 'checkpoints').glob(UNFINISHED) if modified(path) > since]


def modified(path: Path) -> float:
    """When a folder was last written to; 0 where Orbax has just given it its final name."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def saved_step(workdir: Path) -> int:
    """Of the newest checkpoint; 0 without one."""
    names = [path.name for path in (workdir / 'checkpoints').glob('*')]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def whole_records(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without a last line that is cut: by a kill, or because it is being written."""
    kept, found = lines(workdir), []
    for number, line in enumerate(kept, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(kept):
                raise
    return found


def laps(workdir: Path) -> list[tuple[int, float]]:
    """Step and seconds of every training record."""
    return [(record['step'], record['elapsed_s']) for record in whole_records(workdir) if 'elapsed_s' in record]


def records(workdir: Path) -> list[dict[str, Any]]:
    """Whole records without what is measured on the machine."""
    return [
        {name: value for name, value in record.items() if not name.endswith(MEASURED)}
        for record in whole_records(workdir)
    ]


def problem(workdir: Path, whole: list[dict[str, Any]]) -> str | None:
    """What a killed run has lost or done wrong; None where nothing.

    Its records must be the first ones of an undisturbed run, bit for bit, and reach to its newest checkpoint.
    """
    found = records(workdir)
    if found != whole[: len(found)]:
        wrong = next(n for n, record in enumerate(found) if n >= len(whole) or record != whole[n])
        return f'record {wrong + 1} is {found[wrong]}, expected {whole[wrong] if wrong < len(whole) else "no more"}'
    due = [record for record in whole if record['step'] <= saved_step(workdir)] if saved_step(workdir) else []
    if len(found) < len(due):
        return f'{len(found)} records for a checkpoint of step {saved_step(workdir)}, expected at least {len(due)}'
    return None


def resumed_from(workdir: Path) -> int | None:
    """The step that the last start went on from, 0 where it began anew; None where it was killed before that."""
    text = log(workdir).read_text()
    if found := re.search(r'^resumed from step (\d+) of ', text, re.MULTILINE):
        return int(found[1])
    return 0 if re.search(r'^step 1 has .* FLOPs', text, re.MULTILINE) else None


def remove(workdir: Path) -> None:
    """A run and its logs."""
    shutil.rmtree(workdir, ignore_errors=True)
    for path in workdir.parent.glob(f'{workdir.name}.*.log'):
        path.unlink()
