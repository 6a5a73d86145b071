"""A training that goes on for hours in segments, each resumed where SIGTERM stopped the one before: does anything grow?

`pic-jax train` of benchmarks/long_training.py is watched from outside. Memory, open files, threads, processor time and
time per step are sampled every few seconds; a line is fitted to each (benchmarks/growth.py), within a segment and after
its first minutes, in which programs are compiled and pools fill up. What counts as growth:

- memory, resident and handed out by malloc: the upper end of the slope's 95% interval, kept up for a day, adds more
  than a quarter of what is resident. A preempted run is seldom older, and a machine has as much to spare; a list that
  keeps one float array of 1,000 numbers a step passes the limit at one step a second.
- blocks of Python's allocators, which lie in pages of their own where they are small: likewise, at 100 bytes each.
- open files, threads: the upper end of the interval is one an hour or more.
  (Of a stretch of live malloc and threads the lower quartile counts, as what comes and goes with a save is there for
  nearly half of the time; of resident memory the upper one, as a step's buffers are not there between two steps.)
- time and processor time per step (with saves and evaluations): the lower end is above 10% an hour, that is, it grew
  for certain. Other programs change both, on this machine and on others of the same host: with every sample a fixed
  piece of work is timed, and how much longer that took is taken out (rows without `reference_s` are older). What a
  segment, or all together, cannot rule out is what the upper end says.

Rows keep samples; all else is made of them when they are read.

    python benchmarks/long_run.py     runs the next segment that is missing; exit code 1 where a segment has a problem
    python benchmarks/long_run.py --segments=1 --malloc= --workdir=runs/default_malloc \
        --results=benchmarks/results/long_run/default_malloc.json
    python benchmarks/long_run.py --segments=1 --malloc=MALLOC_ARENA_MAX=2 --workdir=runs/two_heaps \
        --results=benchmarks/results/long_run/two_heaps.json

glibc gives threads up to 8 heaps of their own for every core, and takes pieces of up to 32 MiB from them: resident
memory grows more than what malloc has handed out (heap_samples.py tells the two apart), as each new largest number of
buffers at a time leaves pages that fit nothing else. The training has README's settings: two heaps, and pieces of 1 MiB
or more from the system, to which they go back. The others measure it without.

A segment that is cut leaves no row, and its training stops with it. The next one goes on from there; its row has those
steps as `unwatched_steps`.
"""

import argparse
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import heap_samples
import killed_runs as runs
import numpy as np
from growth import BLOCKS, LEAST, Slope, slope
from pages import table as markdown
from process_samples import Usage, busy_s, reference_s, usage
from provenance import provenance
from scipy.stats import t as student

from pic_jax.errors import EXIT_RESTART
from pic_jax.files import read_json, write_text

CONFIG = Path(__file__).with_name('long_training.py')
RESULTS = Path(__file__).with_name('results') / 'long_run' / 'segments.json'
WORKDIR = Path(__file__).parents[1] / 'runs' / 'long_run'
SEED, SEGMENTS = 0, 4
EVERY_S, STORED_SAMPLES = 5.0, 200
BLOCK_BYTES = 100  # about what one of Python's has
MALLOC = 'MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576'
ALLOCATORS = ('MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES', 'LD_PRELOAD')  # of the shell
TAIL = 8192  # bytes at the end of metrics.jsonl that hold more than two records
MEMORY_SHARE_A_DAY, COUNT_AN_HOUR, PERCENT_AN_HOUR = 0.25, 1.0, 10.0
UNITS = {
    'rss_mib': 'MiB', 'anonymous_mib': 'MiB', 'heap_mib': 'MiB', 'python_blocks': 'blocks', 'handles': 'handles',
    'threads': 'threads', 'step_cpu_s': '%', 'step_s': '%',
}  # fmt: skip

LOWER, UPPER = (functools.partial(np.quantile, q=q) for q in (0.25, 0.75))
QUARTILES = {'rss_mib': UPPER, 'anonymous_mib': UPPER, 'heap_mib': LOWER, 'threads': LOWER}

# The fields of `Usage` and `Heap`, and t_s, step, step_s, busy_s, reference_s; one number a sample.
Samples = dict[str, np.ndarray]


def segment(
    workdir: Path, minutes: float, settle: float, before: dict[str, Any] | None, malloc: str, config: Path = CONFIG
) -> dict:
    """The row of one more segment; it goes on from the workdir's newest checkpoint.

    Args:
      minutes: from the first record to SIGTERM. settle: of these, before the fits begin.
      before: the row of the segment before it. malloc: NAME=VALUE of variables that glibc's malloc reads.
    """
    commit, saved = provenance(SEED), runs.saved_step(workdir)
    if before and not saved:
        print(f'{workdir} has no checkpoint: starts afresh', file=sys.stderr)
    heap = workdir.with_name(f'{workdir.name}.heap.json')
    variables = {'HEAP_FILE': str(heap)} | dict(each.split('=') for each in malloc.split())
    heap.unlink(missing_ok=True)
    (process,) = runs.start(workdir, config=config, program=(heap_samples.__file__,), **variables)
    try:
        samples = watched(process, workdir, heap, 60 * minutes)
    finally:
        process.terminate()
        (code,) = runs.ended([process])
    resumed, last = runs.resumed_from(workdir) or None, runs.saved_step(workdir)
    row = {
        'minutes': minutes, 'malloc': malloc, 'settle_minutes': settle, 'sampled_every_s': EVERY_S,
        'cores': len(os.sched_getaffinity(0)),
        'saved_before': saved or None, 'unwatched_steps': max(0, saved - before['last_step']) if before else 0,
        'resumed_from': resumed, 'last_step': last, 'exit_code': code,
        **counts(workdir, resumed or 0, last), **commit,
    }  # fmt: skip
    return row | {'samples': thinned(samples)}


def watched(process: subprocess.Popen, workdir: Path, heap: Path, seconds: float) -> Samples:
    """Samples from the first new record on, until that time is over or the process has ended."""
    first, rows, began = newest_step(workdir)[0], [], None
    deadline = time.monotonic() + runs.LIMIT_S
    while time.monotonic() < deadline:
        try:
            process.wait(EVERY_S)
            break
        except subprocess.TimeoutExpired:
            pass
        found, handed_out, (step, step_s) = usage(process.pid), heap_samples.latest(heap), newest_step(workdir)
        if found and handed_out and step > first:
            if began is None:
                began = time.monotonic()
                deadline = began + seconds
            machine = busy_s(), round(reference_s(), 5)
            rows.append((round(time.monotonic() - began, 2), *found, *handed_out, step, step_s, *machine))
    names = ('t_s', *Usage._fields, *heap_samples.Heap._fields, 'step', 'step_s', 'busy_s', 'reference_s')
    return dict(zip(names, np.array(rows).reshape(-1, len(names)).T, strict=True))


def newest_step(workdir: Path) -> tuple[int, float]:
    """The step of the newest training record, and the seconds of one step up to there; zeros without one."""
    path = workdir / 'metrics.jsonl'
    if not path.exists():
        return 0, 0.0
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().split(b'\n')[1:-1]  # both ends may be cut
    records = [json.loads(line) for line in lines]
    laps = [
        (record['step'], record['elapsed_s'] / (record['step'] - last['step']))
        for last, record in itertools.pairwise(records)
        if 'elapsed_s' in record and record['step'] > last['step']
    ]
    return laps[-1] if laps else (0, 0.0)


def counts(workdir: Path, first: int, last: int) -> dict[str, int]:
    """How often a segment saved and evaluated."""
    every = read_json(workdir / 'config.json')['train']['checkpoint_every']
    evaluations = sum(row['split'] == 'validation' and row['step'] > first for row in runs.records(workdir))
    return {'saves': last // every - first // every + (last % every > 0), 'evaluations': evaluations}


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """Middles and slopes after the first minutes; those of times are percent an hour. All empty without enough.

    `step_cpu_s` is processor time between two samples over the steps between them. Times are as they would have been
    had the machine been as fast all along as it was on average.
    """
    samples = {name: np.array(values) for name, values in row['samples'].items()}
    kept = samples['t_s'] >= 60 * row['settle_minutes']
    after = {name: values[kept] for name, values in samples.items()}
    moved = np.flatnonzero(np.diff(after['step'], prepend=-1))[1:]  # the first one says when the interval began
    if len(moved) <= LEAST:
        return {'middles': {}, 'slopes': {}}
    steps = {name: np.diff(after[name][moved]) for name in ('cpu_s', 'step')}
    reference_s = after.get('reference_s', np.ones(kept.sum()))[moved]
    slower = reference_s / reference_s.mean()
    step_cpu_s, step_s = steps['cpu_s'] / steps['step'] / slower[1:], after['step_s'][moved] / slower
    slopes, middles = {}, {}
    for name in UNITS:
        if name == 'step_cpu_s':
            times, values, middle = after['t_s'][moved][1:], step_cpu_s, np.mean
        elif name == 'step_s':
            times, values, middle = after['t_s'][moved], step_s, np.mean
        else:
            middle = QUARTILES.get(name, np.median)
            times, values = after['t_s'], after[name]
        middles[name] = round(float(middle(values)), 4)
        scale = 100 / middle(values) if UNITS[name] == '%' else 1
        slopes[name] = slope(times / 3600, values * scale, middle)._asdict()
    return {'middles': middles, 'slopes': slopes}


def problems(row: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """What is wrong with a segment, a line each."""
    found = []
    if row['exit_code'] != EXIT_RESTART:
        found.append(f'exit code {row["exit_code"]}, expected {EXIT_RESTART}')
    if row['resumed_from'] != row['saved_before']:
        found.append(f'resumed from {row["resumed_from"]}, expected {row["saved_before"]}')
    if before and row['saved_before'] and row['saved_before'] < before['last_step']:
        found.append(
            f'the workdir was at step {row["saved_before"]}, the segment before ended at {before["last_step"]}'
        )
    return found + growth(**measured(row))


def growth(middles: dict[str, float], slopes: dict[str, dict[str, float]]) -> list[str]:
    """What grows, or may grow, by more than the limits above."""
    if not slopes:
        return ['too few samples to fit a line']
    memory = MEMORY_SHARE_A_DAY * middles['rss_mib'] / 24
    limits = {
        'rss_mib': memory, 'heap_mib': memory, 'python_blocks': memory * 2**20 / BLOCK_BYTES,
        'handles': COUNT_AN_HOUR, 'threads': COUNT_AN_HOUR, 'step_cpu_s': PERCENT_AN_HOUR, 'step_s': PERCENT_AN_HOUR,
    }  # fmt: skip
    found = []
    for name, limit in limits.items():
        end = 'low' if UNITS[name] == '%' else 'high'
        if slopes[name][end] >= limit:
            each = slopes[name]
            said = f'{name}: {each["rate"]:.2f} {UNITS[name]} an hour [{each["low"]:.2f}, {each["high"]:.2f}]'
            found.append(f'{said}, expected a {end} end below {limit:.2f}')
    return found


def pooled(slopes: list[dict[str, dict[str, float]]]) -> dict[str, Slope]:
    """The mean of at least two segments' slopes, with the wider of two 95% intervals: by their errors or spread."""
    count, found = len(slopes), {}
    for name in UNITS:
        rates, errors = np.array([[each[name]['rate'], each[name]['error']] for each in slopes]).T
        rate, error, spread = rates.mean(), np.sqrt(errors @ errors) / count, rates.std(ddof=1) / np.sqrt(count)
        margin = max(student.ppf(0.975, (BLOCKS - 2) * count) * error, student.ppf(0.975, count - 1) * spread)
        found[name] = Slope(rate, max(error, spread), rate - margin, rate + margin)
    return found


def thinned(samples: Samples) -> dict[str, list[float]]:
    """At most STORED_SAMPLES of them, at equal distances."""
    step = -(-len(samples['t_s']) // STORED_SAMPLES) or 1
    return {name: values[::step].tolist() for name, values in samples.items()}


NAMES = {
    'rss_mib': 'memory, MiB', 'heap_mib': 'of malloc, MiB', 'python_blocks': 'blocks of Python',
    'handles': 'open files', 'threads': 'threads', 'step_cpu_s': 'CPU s a step', 'step_s': 's a step',
}  # fmt: skip


def table(rows: list[tuple[str, dict[str, Any]]], what: str) -> str:
    """Middles of rows of their own, with the slope's 95% interval an hour.

    Args:
      rows: each with what names it. what: heads these names.
    """
    return markdown(heading(what), [cells(label, row, None) for label, row in rows])


def numbered(rows: list[dict[str, Any]]) -> str:
    """The same of segments that follow each other and, where all are there, the mean of their slopes."""
    lines = [cells(str(number), row, before) for number, (before, row) in enumerate(pairs(rows), 1)]
    slopes = [measured(row)['slopes'] for row in rows]
    if len(rows) >= SEGMENTS and all(slopes):
        mean = pooled(slopes)
        lines.append(['all', '', '', '', *(interval(mean[name]._asdict(), name) for name in NAMES), ''])
    return markdown(heading('segment'), lines)


def pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
    """Every row with the one before it."""
    return zip([None, *rows], rows, strict=False)


def heading(what: str) -> list[str]:
    """Of the tables."""
    return [what, 'steps', 'saves', 'evaluations', *NAMES.values(), 'problems']


def cells(label: str, row: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """A line of the tables."""
    steps = f'{row["resumed_from"] or 0} to {row["last_step"]}'
    steps += f' ({row["unwatched_steps"]} unwatched before)' if row['unwatched_steps'] else ''
    middles, slopes = measured(row).values()
    shown = [f'{middles[name]:g} ({interval(slopes[name], name)})' if slopes else '-' for name in NAMES]
    found = '; '.join(problems(row, before)) or 'none'
    return [label, steps, str(row['saves']), str(row['evaluations']), *shown, found]


def interval(slope: dict[str, float], name: str) -> str:
    """Both ends, with the sign of percent where the slope is one."""
    return f'{slope["low"]:+.2f} to {slope["high"]:+.2f}{" %" if UNITS[name] == "%" else ""}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=45, help='of a segment')
    parser.add_argument('--settle', type=float, default=5, metavar='MINUTES', help='before the fits begin')
    parser.add_argument('--malloc', default=MALLOC, metavar='VARIABLES', help=f"of glibc's malloc (default '{MALLOC}')")
    parser.add_argument('--segments', type=int, default=SEGMENTS, help='how many there shall be')
    parser.add_argument('--workdir', type=Path, default=WORKDIR, help='of the training; it has to be kept in between')
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file of rows')
    args = parser.parse_args()
    for name in ALLOCATORS:
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('cut by SIGTERM'))  # so that the training is stopped, too
    rows = read_json(args.results)['rows'] if args.results.exists() else []
    if len(rows) < args.segments:
        args.workdir.parent.mkdir(parents=True, exist_ok=True)
        before = rows[-1] if rows else None
        if before and before['malloc'] != args.malloc:
            raise SystemExit(f'{args.results} has rows of --malloc={before["malloc"]!r}: another needs other --results')
        row = segment(args.workdir, args.minutes, args.settle, before, args.malloc)
        if not measured(row)['slopes']:
            raise SystemExit(f'no row was stored: {"; ".join(problems(row, before))}; see {runs.log(args.workdir)}')
        rows.append(row)
        write_text(args.results, json.dumps({'rows': rows}, indent=1) + '\n')
    print(numbered(rows))
    if len(rows) < args.segments:
        print(f'{len(rows)} of {args.segments} segments: run the same command again to go on')
    return int(any(problems(row, before) for before, row in pairs(rows)))


if __name__ == '__main__':
    sys.exit(main())
