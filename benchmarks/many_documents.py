"""`pic-jax compress` of 2,000 documents of 1 to 2,000 tokens: how much is compiled, and whether memory grows.

The bundled compressor reads generated text, cut to lengths whose logarithms are uniform, in random order. A batch is
padded to a bucket for its longest document, and every shape of a batch is compiled once. There may be four buckets for
each doubling from 32 tokens on, one of 32 and one of the context length, so the program is compiled at most that often
for each number of rows.

Memory is the least that the process had between two batches: while one is computed, its buffers count too. The command
keeps what it has compressed until it writes its file; those bytes are taken off before a line is fitted to the second
half. At the upper end of the slope's 95% interval as many documents again may take at most 10% more. MALLOC_ARENA_MAX
is 2: what glibc's heaps keep of freed memory (benchmarks/long_run.py) goes up and down by more than that.

    python benchmarks/many_documents.py     measure, print a table, exit with 1 where a limit is passed
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from statistics import median
from typing import Any

from growth import slope
from process_samples import usage
from provenance import provenance

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'many_documents' / 'rows.json'
SEED = 0
COMPRESSOR, SLOT_BYTES = 'tiny_base/pic', 4 * 128  # float32 vectors of its hidden size
DOCUMENTS, LONGEST = 2000, 2000  # the bundled model has 2,048 positions
SHORTEST_BUCKET, BUCKETS_PER_DOUBLING = 32, 4
GROWTH_ALLOWED = 0.1  # of the memory in the second half, by as many documents again
EVERY_S = 0.1  # between two looks at memory; a batch takes seconds
PROGRAM, EVENT = '_compress', '/jax/core/compile/backend_compile_duration'


def write_documents(path: Path, count: int, longest: int, seed: int = SEED) -> None:
    """A .jsonl of generated documents of 1 to about `longest` tokens of the bundled model."""
    from pic_jax.config import CorpusConfig
    from pic_jax.data import generator
    from pic_jax.data.tokenise import load_tokenizer
    from pic_jax.run import named_folder

    rng, tokenizer = random.Random(seed), load_tokenizer(named_folder('tiny_base'))
    records = generator.generate(CorpusConfig(questions=1), 'train', 100 + longest // 100, seed)
    tokens = tokenizer.encode('\n'.join(record.context for record in records))
    with path.open('w') as file:
        for _ in range(count):
            text = ''
            while not text.strip():
                length, first = round(math.exp(rng.uniform(0, math.log(longest)))), rng.randrange(len(tokens) - longest)
                text = tokenizer.decode(tokens[first : first + length])
            file.write(json.dumps({'text': text}) + '\n')


@contextlib.contextmanager
def compiled() -> Iterator[Counter[str]]:
    """Counts what jax compiles while the block runs, by the name of the function."""
    import jax

    counts = Counter()

    def count(event: str, seconds: float, fun_name: str = '', **others: Any) -> None:
        counts[fun_name] += event == EVENT

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def compress(words: list[str]) -> tuple[int, dict[str, int]]:
    """Exit code of `pic-jax compress`, and what it compiled."""
    from pic_jax.cli.main import main as pic_jax

    with compiled() as counts:
        code = pic_jax(['compress', *words])
    return code, {name: count for name, count in counts.items() if count}


def programs(counts: dict[str, int]) -> int:
    """How often the compressor itself was compiled."""
    return sum(count for name, count in counts.items() if PROGRAM in name)


def limit(longest: int, batch_shapes: int) -> int:
    """How often it may be, for documents of up to `longest` tokens in batches of so many different numbers of rows."""
    doublings = math.ceil(math.log2(max(longest / SHORTEST_BUCKET, 1)))
    return batch_shapes * (2 + BUCKETS_PER_DOUBLING * doublings)  # 2: the shortest, and the context length itself


def watched(words: list[str]) -> tuple[dict[str, Any], list[tuple[int, float, float]]]:
    """What the child says of `pic-jax compress`; of each batch, documents and seconds so far, and its least memory."""
    command = [sys.executable, __file__, '--compress', json.dumps(words)]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': '', 'MALLOC_ARENA_MAX': '2'}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    samples, began, batch = [], time.monotonic(), Queue()
    threading.Thread(target=poll, args=(process, batch), daemon=True).start()
    with process:
        for line in process.stderr:
            found, rss_mib = re.fullmatch(r'(\d+) of \d+ contexts\n', line), [batch.get() for _ in range(batch.qsize())]
            if found and rss_mib:
                samples.append((int(found[1]), round(time.monotonic() - began, 2), min(rss_mib)))
            elif not found:
                print(line, end='', file=sys.stderr)
        said = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit('the child failed, see above')
    return json.loads(said[-1]), samples[:-1]  # after the last batch all are joined, perhaps before the sample


def poll(process: subprocess.Popen, rss_mib: Queue[float]) -> None:
    """Puts its resident memory there until it ends."""
    while now := usage(process.pid):
        rss_mib.put(now.rss_mib)
        time.sleep(EVERY_S)


def measure(folder: Path, count: int, longest: int) -> dict[str, Any]:
    """The row."""
    from pic_jax import api
    from pic_jax.interop import context_files

    path, out = folder / 'documents.jsonl', folder / 'contexts.safetensors'
    write_documents(path, count, longest)
    began = time.monotonic()
    said, samples = watched([f'--workdir={COMPRESSOR}', str(path), f'--out={out}'])
    seconds = time.monotonic() - began
    stored, trained = context_files.read(out), api.load(COMPRESSOR)
    tokens, starts = stored.metadata.source_tokens, [0, *(done for done, _, _ in samples)]
    batches = [slice(first, last) for first, last in zip(starts, [*starts[1:], count], strict=True)]
    rows = {batch.stop - batch.start for batch in batches}
    held = [len(stored.lengths[batch]) * stored.lengths[batch].max() * SLOT_BYTES / 2**20 for batch in batches]
    own = [rss_mib - kept for (_, _, rss_mib), kept in zip(samples, itertools.accumulate(held), strict=False)]
    half = len(samples) // 2
    buckets = Counter(trained._bucket(max(tokens[batch])) for batch in batches)
    found = slope([done / 1000 for done, _, _ in samples[half:]], own[half:])
    return {
        'documents': count, 'exit_code': said['exit_code'], 'tokens': sum(tokens), 'shortest': min(tokens),
        'longest': max(tokens), 'batches': len(batches), 'batch_shapes': len(rows),
        'buckets': {size: buckets[size] for size in sorted(buckets)},
        'compilations': programs(said['compiled']), 'compilations_allowed': limit(max(tokens), len(rows)),
        'compilations_of_all_functions': sum(said['compiled'].values()), 'seconds': round(seconds, 1),
        'peak_rss_mib': said['peak_rss_mib'], 'own_rss_mib': round(median(own[half:]), 1),
        'kept_mib': round(sum(held), 1), 'own_rss_mib_per_1000': found._asdict(),
        'growth': round(found.high * count / 1000 / median(own[half:]), 4),
        'samples': {'documents': starts[1:], 't_s': [at for _, at, _ in samples], 'own_rss_mib': [*map(round, own)]},
    }  # fmt: skip


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, a line each."""
    found = []
    if row['exit_code']:
        found.append(f'exit code {row["exit_code"]}')
    allowed = min(row['compilations_allowed'], len(row['buckets']) * row['batch_shapes'])
    if not 0 < row['compilations'] <= allowed:
        found.append(f'compiled {row["compilations"]} times, expected 1 to {allowed}')
    if row['growth'] > GROWTH_ALLOWED:
        found.append(f'memory grows by {row["growth"]:.1%}, expected at most {GROWTH_ALLOWED:.0%}')
    return found


def table(row: dict[str, Any]) -> str:
    """What the row says."""
    names = {
        'documents': 'documents', 'tokens': 'tokens', 'batches': 'batches', 'compilations': 'compilations',
        'compilations_allowed': 'allowed', 'seconds': 'seconds', 'peak_rss_mib': 'peak memory, MiB', 'growth': 'growth',
    }  # fmt: skip
    cells = [*(row[name] for name in names), len(row['buckets'])]
    lines = [[*names.values(), 'buckets'], ['---'] * len(cells), cells]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--compress', type=json.loads, metavar='WORDS', help=argparse.SUPPRESS)
    words = parser.parse_args().compress
    if words:
        code, counts = compress(words)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        print(json.dumps({'exit_code': code, 'compiled': counts, 'peak_rss_mib': round(peak, 1)}))
        return 0
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), DOCUMENTS, LONGEST)
    row |= {'problems': problems(row), **origin}
    write_text(RESULTS, json.dumps(row, indent=1) + '\n')
    print(table(row), *row['problems'], sep='\n')
    return int(bool(row['problems']))


if __name__ == '__main__':
    sys.exit(main())
