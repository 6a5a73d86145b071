"""The peak of a process's anonymous memory while something runs. Pages of mapped files are not counted."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 0.003


class Peak:
    """bytes: at the most so far, beyond what the process had before."""

    bytes = 0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Samples until the block ends."""
    peak, before, done = Peak(), _anonymous_bytes(), threading.Event()

    def watch():
        while not done.is_set():
            peak.bytes = max(peak.bytes, _anonymous_bytes() - before)
            time.sleep(EVERY_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _anonymous_bytes() -> int:
    status = Path('/proc/self/status').read_text()
    return 1024 * int(status.partition('RssAnon:')[2].split()[0])
