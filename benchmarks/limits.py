"""Bounds on what one call may take: seconds, and memory beyond what the process holds already."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

# Address space is reserved far beyond what is used; this only keeps a mistake from taking the machine down.
SPARE_ADDRESSES = 16 * 2**30


class TooMuchError(BaseException):
    """No Exception: what is bounded must not be able to catch it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooMuchError in the main thread where the block takes longer."""

    def late(*_):
        raise TooMuchError(f'took more than {seconds} s')

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory_limit(most: int) -> Iterator[None]:
    """Raises TooMuchError at the end of a block whose peak was more than `most` bytes beyond its start."""
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    held = _status('VmRSS')
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status('VmSize') + SPARE_ADDRESSES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if _status('VmHWM') - held > most:
        raise TooMuchError(f'took {(_status("VmHWM") - held) / 2**20:.0f} MiB')


def _status(field: str) -> int:
    text = Path('/proc/self/status').read_text()
    return 1024 * int(text.partition(f'{field}:')[2].split()[0])
