"""`pic-jax` as it is, with a thread that says what its allocators have handed out: the file $HEAP_FILE has the latest.

Resident memory also has what an allocator keeps of memory that was given back, in pieces that fit nothing. A leak is
what was handed out and never comes back. glibc says that of malloc (mallinfo(3)), CPython of its small objects, which
lie in pages of their own.

    HEAP_FILE=heap.json python benchmarks/heap_samples.py train --config=FILE --workdir=DIR
"""

import ctypes
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pic_jax.files import read_json

EVERY_S, STALE_S = 1.0, 30.0


class Heap(NamedTuple):
    """Of one process at one moment: what malloc has handed out, and the blocks that Python's allocators have."""

    heap_mib: float
    python_blocks: int


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost',
        )
    ]  # fmt: skip


@functools.cache  # ctypes makes a class for every library that it opens
def _mallinfo2() -> Callable[[], _Mallinfo2]:
    function = ctypes.CDLL(None).mallinfo2
    function.restype = _Mallinfo2
    return function


def heap() -> Heap:
    """Of this process, now; needs glibc 2.33."""
    found = _mallinfo2()()
    return Heap(round((found.uordblks + found.hblkhd) / 2**20, 3), sys.getallocatedblocks())


def latest(path: Path) -> Heap | None:
    """What the process says; None where it does not (yet, or any more)."""
    if not path.exists() or time.time() - path.stat().st_mtime > STALE_S:
        return None
    return Heap(**read_json(path))


def _keep_saying(path: Path) -> None:
    unfinished = path.with_name(f'{path.name}.new')
    while True:
        unfinished.write_text(json.dumps(heap()._asdict()))
        unfinished.replace(path)  # no fsync, which would cost the process that is timed
        time.sleep(EVERY_S)


if __name__ == '__main__':
    from pic_jax.cli.main import main

    heap()  # where glibc lacks mallinfo2 that says so now
    threading.Thread(target=_keep_saying, args=(Path(os.environ['HEAP_FILE']),), daemon=True).start()
    sys.exit(main())
