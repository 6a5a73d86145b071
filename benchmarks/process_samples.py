"""What Linux says of a running process: memory, open files, threads and processor time; and how fast the machine is."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

_NUMBERS, _REPEATS = np.linspace(0, 1, 2**20, dtype=np.float32), 16  # 4 MiB: more than a core's own caches hold
_TICKS = os.sysconf('SC_CLK_TCK')


class Usage(NamedTuple):
    """Of one process at one moment.

    Attributes:
      rss_mib, anonymous_mib: resident memory, and that without pages of files. handles: open files and sockets.
      cpu_s: processor time of all its threads so far.
    """

    rss_mib: float
    anonymous_mib: float
    handles: int
    threads: int
    cpu_s: float


def usage(pid: int) -> Usage | None:
    """Now; None where the process has ended."""
    folder = Path('/proc') / str(pid)
    try:
        lines = (folder / 'status').read_text().splitlines()
        status = {name: value.split() for name, _, value in (line.partition(':') for line in lines)}
        numbers = (folder / 'stat').read_text().rpartition(')')[2].split()  # from the third field on
        rss, anonymous = (int(status[name][0]) / 1024 for name in ('VmRSS', 'RssAnon'))
        handles = len(os.listdir(folder / 'fd'))
    except (OSError, KeyError):  # a process that nobody has waited for has no memory any more
        return None
    cpu_s = (int(numbers[11]) + int(numbers[12])) / _TICKS
    return Usage(round(rss, 2), round(anonymous, 2), handles, int(status['Threads'][0]), cpu_s)


def busy_s() -> float:
    """Processor time of everything on this machine so far."""
    user, nice, system, _, _, *interrupts = map(int, Path('/proc/stat').read_text().splitlines()[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / _TICKS


def reference_s() -> float:
    """Processor time of a fixed piece of work, some 10 ms: what it takes longer at times is the machine's doing."""
    began = time.thread_time()
    for _ in range(_REPEATS):
        np.exp(_NUMBERS)
    return time.thread_time() - began
