"""What Linux says of a running process: memory, open files, threads and processor time."""

import os
from pathlib import Path
from typing import NamedTuple

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
