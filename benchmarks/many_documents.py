"""`pic-jax compress` of 2,000 documents of 1 to 2,000 tokens: how much is compiled, and whether memory grows.

The bundled compressor reads generated text, cut to lengths whose logarithms are uniform, in random order. A batch is
padded to a bucket for its longest document, and every shape of a batch is compiled once. There may be four buckets for
each doubling from 32 tokens on, one of 32 and one of the context length, so the program is compiled at most that often
for each number of rows.

Memory is what malloc has handed out after each batch (benchmarks/heap_samples.py). The command keeps what it has
compressed until it writes its file; those bytes are taken off before a line is fitted to the second half, or to what
comes after the last compilation where that is later: a program takes some 7 MiB, and their number is bounded. At the
upper end of the slope's 95% interval as many documents again may take at most 10% more.

    python benchmarks/many_documents.py     measure, print a table, exit with 1 where a limit is passed
"""

import argparse
import contextlib
import io
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
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from growth import LEAST, slope
from heap_samples import heap
from provenance import provenance

from pic_jax.files import write_text

RESULTS = Path(__file__).with_name('results') / 'many_documents' / 'rows.json'
SEED = 0
COMPRESSOR, SLOT_BYTES = 'tiny_base/pic', 4 * 128  # float32 vectors of its hidden size
DOCUMENTS, LONGEST = 2000, 2000  # the bundled model has 2,048 positions
SHORTEST_BUCKET, BUCKETS_PER_DOUBLING = 32, 4
GROWTH_ALLOWED = 0.1  # of the memory in the second half, by as many documents again
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


class Sampled(io.TextIOBase):
    """A stderr that takes a sample at every line that says how much is done.

    `samples` has documents, seconds so far, programs that were compiled, and the live heap in MiB.
    """

    def __init__(self, shown: TextIO, counts: Counter[str]):
        """Args: shown: where the text goes. counts: of `compiled`."""
        self._shown, self._counts, self._began, self.samples = shown, counts, time.monotonic(), []

    def write(self, text: str) -> int:
        if found := re.match(r'(\d+) of \d+ contexts', text):
            seconds = round(time.monotonic() - self._began, 2)
            self.samples.append((int(found[1]), seconds, programs(self._counts), heap().heap_mib))
        return self._shown.write(text)


def compress(words: list[str]) -> tuple[int, dict[str, Any]]:
    """Exit code of `pic-jax compress` in this process; what it compiled, its samples and its peak memory."""
    from pic_jax.cli.main import main as pic_jax

    with compiled() as counts, contextlib.redirect_stderr(Sampled(sys.stderr, counts)) as stderr:
        code = pic_jax(['compress', *words])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    compilations = {name: count for name, count in counts.items() if count}
    return code, {'compiled': compilations, 'samples': stderr.samples, 'peak_rss_mib': round(peak, 1)}


def programs(counts: dict[str, int]) -> int:
    """How often the compressor itself was compiled."""
    return sum(count for name, count in counts.items() if PROGRAM in name)


def limit(longest: int, batch_shapes: int) -> int:
    """How often it may be, for documents of up to `longest` tokens in batches of so many different numbers of rows."""
    doublings = math.ceil(math.log2(max(longest / SHORTEST_BUCKET, 1)))
    return batch_shapes * (2 + BUCKETS_PER_DOUBLING * doublings)  # 2: the shortest, and the context length itself


def compress_in_child(words: list[str]) -> dict[str, Any]:
    """`compress` in a process of its own, whose memory nobody else has a part of.

    Raises:
      SystemExit: it failed, and said why on stderr.
    """
    command = [sys.executable, __file__, '--compress', json.dumps(words)]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': ''}
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if said.returncode:
        raise SystemExit(f'pic-jax compress ended with exit code {said.returncode}, see above')
    return json.loads(said.stdout.splitlines()[-1])


def measure(folder: Path, count: int, longest: int) -> dict[str, Any]:
    """The row."""
    from pic_jax import api
    from pic_jax.interop import context_files

    path, out = folder / 'documents.jsonl', folder / 'contexts.safetensors'
    write_documents(path, count, longest)
    began = time.monotonic()
    said = compress_in_child([f'--workdir={COMPRESSOR}', str(path), f'--out={out}'])
    seconds = time.monotonic() - began
    stored, trained = context_files.read(out), api.load(COMPRESSOR)
    done, times, compilations, heap_mib = zip(*said['samples'], strict=True)
    tokens, starts = stored.metadata.source_tokens, [0, *done]
    batches = [slice(first, last) for first, last in itertools.pairwise(starts)]
    rows = {batch.stop - batch.start for batch in batches}
    held = [len(stored.lengths[batch]) * int(stored.lengths[batch].max()) * SLOT_BYTES / 2**20 for batch in batches]
    own = [each - kept for each, kept in zip(heap_mib, itertools.accumulate(held), strict=True)]
    first = max(len(own) // 2, compilations.index(compilations[-1]))  # of the samples that a line is fitted to
    buckets = Counter(trained._bucket(max(tokens[batch])) for batch in batches)
    fits = len(own) - first >= LEAST
    found = slope([each / 1000 for each in done[first:]], own[first:]) if fits else None
    return {
        'documents': count, 'tokens': sum(tokens), 'shortest': min(tokens),
        'longest': max(tokens), 'batches': len(batches), 'batch_shapes': len(rows),
        'buckets': {size: buckets[size] for size in sorted(buckets)},
        'compilations': programs(said['compiled']), 'compilations_allowed': limit(max(tokens), len(rows)),
        'compilations_of_all_functions': sum(said['compiled'].values()), 'seconds': round(seconds, 1),
        'peak_rss_mib': said['peak_rss_mib'], 'own_heap_mib': round(median(own[first:]), 1),
        'kept_mib': round(sum(held), 1), 'own_heap_mib_per_1000': found and found._asdict(),
        'growth': found and round(found.high * count / 1000 / median(own[first:]), 4),
        'samples': {
            'documents': done, 't_s': times, 'compilations': compilations,
            'own_heap_mib': [round(each, 1) for each in own],
        },
    }  # fmt: skip


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, a line each."""
    found = []
    if not 0 < row['compilations'] <= allowed(row):
        found.append(f'compiled {row["compilations"]} times, expected 1 to {allowed(row)}')
    if row['growth'] is None:
        found.append(f'fewer than {LEAST} batches after the last compilation: no line can be fitted')
    elif row['growth'] > GROWTH_ALLOWED:
        found.append(f'memory grows by {row["growth"]:.1%}, expected at most {GROWTH_ALLOWED:.0%}')
    return found


def allowed(row: dict[str, Any]) -> int:
    """How many compilations are: by the longest document, and by the shapes that there were."""
    return min(row['compilations_allowed'], len(row['buckets']) * row['batch_shapes'])


def table(row: dict[str, Any]) -> str:
    """What the row says."""
    names = {
        'documents': 'documents', 'tokens': 'tokens', 'batches': 'batches', 'seconds': 'seconds',
        'peak_rss_mib': 'peak memory, MiB', 'compilations': 'compilations',
    }  # fmt: skip
    growth = '-' if row['growth'] is None else f'{row["growth"]:.1%}, limit {GROWTH_ALLOWED:.0%}'
    cells = [*(row[name] for name in names), allowed(row), growth, '; '.join(row['problems']) or 'none']
    heading = [*names.values(), 'allowed', 'memory by as many again, at most', 'problems']
    lines = [heading, ['---'] * len(cells), cells]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--compress', type=json.loads, metavar='WORDS', help=argparse.SUPPRESS)
    words = parser.parse_args().compress
    if words:
        code, found = compress(words)
        print(json.dumps(found))
        return code
    origin = provenance(SEED)  # of the code that runs, whatever HEAD is later
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), DOCUMENTS, LONGEST)
    row |= {'problems': problems(row), **origin}
    write_text(RESULTS, json.dumps(row, indent=1) + '\n')
    print(table(row))
    return int(bool(row['problems']))


if __name__ == '__main__':
    sys.exit(main())
