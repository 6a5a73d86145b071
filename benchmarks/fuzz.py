"""Feeds every reader of the package damaged files (benchmarks/fuzz_readers.py) for a given time.

    python benchmarks/fuzz.py                       10 minutes in all; goes on where the last segment stopped
    python benchmarks/fuzz.py --minutes=45          one segment of a longer run
    python benchmarks/fuzz.py --only=contexts

Examples, seconds and failures of every reader add up over segments in benchmarks/results/fuzz/fuzz.json, with where
they come from and what their results were held to; each segment draws others, as seeds go on from the examples that a
reader has had. A failure is a traceback, more than `SECONDS` for one file, more than 1 GiB for a reader's share, or a
result that is not what the file says (benchmarks/fuzz_judges.py); its bytes are kept beside the table, and the exit
code is 1.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz_readers import READERS, Reader, try_one
from hypothesis import HealthCheck, Phase, given, seed, settings
from limits import TooMuchError, memory_limit, time_limit
from mutations import damaged
from provenance import provenance

from pic_jax.files import read_json, write_text

RESULTS = Path(__file__).with_name('results') / 'fuzz' / 'fuzz.json'
SECONDS, BYTES, SEED = 10, 2**30, 0
EMPTY = {'examples': 0, 'accepted': 0, 'seconds': 0.0}
TOGETHER = 50  # examples between two looks at the clock


def fuzz(reader: Reader, folder: Path, seconds: float, first_seed: int) -> dict:
    """Examples, how many of them were accepted, and {where and what: bytes} of failures, after that many seconds."""
    valid, here = folder / 'valid', folder / 'here'
    valid.mkdir()
    reader.make(valid)
    found = {'examples': 0, 'accepted': 0, 'failures': {}}
    strategy = damaged((valid / reader.file).read_bytes(), reader.kind)

    def one(data: bytes) -> None:
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(valid, here)
        found['examples'] += 1
        try:
            with time_limit(SECONDS):
                found['accepted'] += try_one(reader, here, data)
        except (Exception, TooMuchError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found['failures'].setdefault(
                f'{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}'[:300], data
            )

    batch, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        options = settings(max_examples=TOGETHER, deadline=None, database=None, phases=[Phase.generate],
                           suppress_health_check=list(HealthCheck))  # fmt: skip
        seed(first_seed + batch)(options(given(strategy)(one)))()
        batch += 1
    return found


def segment(names: list[str], minutes: float) -> int:
    """Fuzzes each reader for its share of the time and adds to the table; how many kinds of failures it has."""
    rows, origin = stored(), provenance(SEED)
    for name in names:
        row = rows.setdefault(name, EMPTY | {'failures': {}, 'held_to': {}, 'origins': []})
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                with memory_limit(BYTES):
                    found = fuzz(READERS[name], Path(folder), 60 * minutes / len(names), SEED + row['examples'])
            except TooMuchError as error:
                found = {'examples': 0, 'accepted': 0, 'failures': {f'memory: {error}': b''}}
        row['examples'] += found['examples']
        row['accepted'] += found['accepted']
        held_to = READERS[name].held_to
        row['held_to'][held_to] = row['held_to'].get(held_to, 0) + found['examples']
        row['seconds'] = round(row['seconds'] + time.perf_counter() - started, 1)
        row['failures'] |= {what: keep(data) for what, data in found['failures'].items()}
        row['origins'] += [origin] * (origin not in row['origins'])
        print(f'{name:<22}{row["examples"]:>9} examples  {len(row["failures"])} failures', file=sys.stderr, flush=True)
        write_text(RESULTS, json.dumps({'readers': rows}, indent=1) + '\n')
    return sum(len(row['failures']) for row in rows.values())


def stored() -> dict[str, dict]:
    """The rows there are by reader."""
    return read_json(RESULTS)['readers'] if RESULTS.is_file() else {}


def keep(data: bytes) -> str:
    """Stores the bytes of a failure; the name of their file."""
    path = RESULTS.with_name(f'{hashlib.sha256(data).hexdigest()[:12]}.bin')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=10.0, help='of this segment, for all readers (default 10)')
    parser.add_argument('--only', choices=READERS, help='one reader')
    args = parser.parse_args()
    return int(segment([args.only] if args.only else list(READERS), args.minutes) > 0)


if __name__ == '__main__':
    sys.exit(main())
