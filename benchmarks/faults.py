"""Trainings that are killed, and checkpoints that a disk has damaged: what a resume makes of them.

`killed`: one run after the other is killed KILLS_PER_RUN times at random moments (benchmarks/killed_runs.py) and then
left to its end; every row is a kill. Losses have to be those of an undisturbed run, bit for bit. `judged`
says what a row comes to, and the same rule reads older rows; kills that came after the last save, or so early that
nothing handled SIGTERM yet, do not count.
`disk`: every file of a checkpoint is damaged in every way of benchmarks/damage.py; every row is one damage.

    python benchmarks/faults.py [--minutes=45]     runs what is missing; exit code 1 where a row has a problem
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import damage
import killed_runs as runs
from provenance import provenance, rows_of

from pic_jax.errors import EXIT_LOST, EXIT_RESTART
from pic_jax.files import read_json, write_text

RESULTS = Path(__file__).with_name('results') / 'faults'
SEED = 0
# (signal, processes): how many kills.
KILLS = {('SIGKILL', 1): 20, ('SIGTERM', 1): 10, ('SIGKILL', 2): 20, ('SIGTERM', 2): 10}
KILLS_PER_RUN = 4
PROCESSES = (1, 2)
# What a kill comes to.
COUNTED, EARLY, LATE, WRONG = 'counted', 'before SIGTERM was handled', 'after the last save', 'wrong'
HEARD_S = 3.0  # JAX's service looks once a second; the processes agree on a step after that
ABORTED = -6  # how JAX ends a process whose peer is gone, where pic-jax is not the first to notice


def killed(folder: Path, deadline: float) -> list[dict[str, Any]]:
    """The rows of killed.json, with those that are missing as far as time goes."""
    rows, whole = stored('killed'), {}
    while time.monotonic() < deadline and (missing := next_kills(rows)):
        processes = missing[0][1]
        if processes not in whole:
            whole[processes] = undisturbed(folder / f'whole_{processes}', processes)
        rows += killed_run(folder / 'run', missing, whole[processes])
        store('killed', rows)
    return rows


def next_kills(rows: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(signal, processes, seed) of the kills of the next run, of the kind of which the largest share is missing."""
    tried = {kind: [row for row in rows if (row['signal'], row['processes']) == kind] for kind in KILLS}
    done = {kind: sum(judged(row)[0] in (COUNTED, WRONG) for row in rows) for kind, rows in tried.items()}
    left = {kind: count - done[kind] for kind, count in KILLS.items()}
    kind = max(KILLS, key=lambda kind: left[kind] / KILLS[kind])
    first = len(tried[kind])
    return [(*kind, seed) for seed in range(first, first + min(left[kind], KILLS_PER_RUN))]


def undisturbed(workdir: Path, processes: int) -> list[dict[str, Any]]:
    """The records of a run that nobody kills."""
    codes = runs.ended(runs.start(workdir, processes))
    if any(codes):
        raise SystemExit(f'an undisturbed run failed: {runs.log(workdir).read_text()[-2000:]}')
    return runs.records(workdir)


def killed_run(workdir: Path, kills: list[tuple[str, int, int]], whole: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one run: its kills, each judged by what it left and by what the next start made of that."""
    rows, processes = [], kills[0][1]
    runs.remove(workdir)
    origin = provenance(SEED)
    for name, _, seed in kills:
        moment = runs.draw(seed, name, processes)
        before = {'saved_before': runs.saved_step(workdir), 'records_before': len(runs.records(workdir))}
        left = runs.kill(runs.start(workdir, processes), workdir, moment)
        judge_resume(rows, workdir)
        saved, records = runs.saved_step(workdir), runs.records(workdir)
        rows.append(origin | {
            'signal': name, 'processes': processes, 'seed': seed, **dataclasses.asdict(moment), **left._asdict(),
            'in_time': any(left.exit_codes) and saved < whole[-1]['step'], **before, 'saved_step': saved,
            'records': len(records), 'reached': records[-1]['step'] if records else 0,
            'problem': runs.problem(workdir, whole),
        })  # fmt: skip
    codes = runs.ended(runs.start(workdir, processes))
    judge_resume(rows, workdir)
    last = runs.problem(workdir, whole)
    if any(codes) or last or len(runs.records(workdir)) != len(whole) or runs.unfinished(workdir):
        rows[-1]['problem'] = f'the end: exit codes {codes}, {len(runs.records(workdir))} records; {last}'
    for row in rows:
        print(json.dumps(row), *judged(row), flush=True)
    return rows


def judged(row: dict[str, Any]) -> tuple[str, str | None]:
    """What a kill comes to, and what is wrong with it; None where nothing.

    SIGKILL ends processes as it does, or they notice that a peer is gone. SIGTERM saves what was reached and exits with
    75, soon. One that comes while a process still imports ends it: that start has left nothing. Older rows do not say
    how soon.
    """
    if row['problem']:
        return WRONG, row['problem']
    if row['signal'] == 'SIGTERM' and (deaf_s := row.get('deaf_s', 0)) > HEARD_S:
        return WRONG, f'made steps for {deaf_s} s after SIGTERM, expected at most {HEARD_S} s'
    codes, by_signal = set(row['exit_codes']), -getattr(signal, row['signal'])
    lost = {ABORTED, EXIT_LOST} if row['signal'] == 'SIGKILL' else set()
    # One that is not killed may not wait to be.
    valid = [{by_signal} | lost if i in row['targets'] else lost for i in range(row['processes'])]
    if not row['in_time'] and fit(row, [each | {0, EXIT_RESTART} for each in valid]):
        return LATE, None
    had = row.get('saved_before', 0), row.get('records_before', 0)
    nothing_new = (row['saved_step'], row['records']) == had
    early = codes <= {by_signal, ABORTED, EXIT_RESTART} and by_signal in codes
    if row['signal'] == 'SIGTERM' and early and nothing_new:
        return EARLY, None
    right = by_signal in codes and fit(row, valid) if row['signal'] == 'SIGKILL' else codes == {EXIT_RESTART}
    if not right:
        return WRONG, f'exit codes {row["exit_codes"]}'
    if row['signal'] == 'SIGTERM' and row['saved_step'] < row.get('reached', 0):
        return WRONG, f'saved step {row["saved_step"]}, expected at least {row["reached"]}'
    return COUNTED, None


def fit(row: dict[str, Any], valid: list[set[int]]) -> bool:
    """Whether every process ended in a way that is valid for it."""
    return all(code in each for code, each in zip(row['exit_codes'], valid, strict=True))


def judge_resume(rows: list[dict[str, Any]], workdir: Path) -> None:
    """Adds to the last kill whether the start after it went on from the newest checkpoint, as far as that got."""
    if rows:
        row = rows[-1]
        row['resumed_from'] = runs.resumed_from(workdir)
        if row['resumed_from'] not in (None, row['saved_step']):
            row['problem'] = f'resumed from step {row["resumed_from"]}, expected {row["saved_step"]}'


def disk(folder: Path, deadline: float) -> list[dict[str, Any]]:
    """The rows of disk.json, with those that are missing as far as time goes."""
    rows = stored('disk')
    for processes in PROCESSES:
        if any(row['processes'] == processes for row in rows) or time.monotonic() > deadline:
            continue
        workdir = folder / f'whole_{processes}'
        if not workdir.exists():
            undisturbed(workdir, processes)
        origin = provenance(SEED)
        made = damage.damage_every_file(workdir, folder / 'damaged', SEED)
        rows += [origin | {'processes': processes, **row} for row in made]
        store('disk', rows)
    return rows


def stored(name: str) -> list[dict[str, Any]]:
    """The rows there are."""
    path = RESULTS / f'{name}.json'
    return rows_of(read_json(path)) if path.exists() else []


def store(name: str, rows: list[dict[str, Any]]) -> None:
    """Keeps the rows."""
    write_text(RESULTS / f'{name}.json', json.dumps({'rows': rows}, indent=1) + '\n')


def tables(kills: list[dict[str, Any]], damages: list[dict[str, Any]]) -> str:
    """What the rows come to."""
    text = [f'| signal | processes | kills | in a save | {EARLY} | {LATE} | problems |', f'{"|---" * 7}|']
    for (name, processes), wanted in KILLS.items():
        rows = [(judged(row)[0], row) for row in kills if (row['signal'], row['processes']) == (name, processes)]
        number = Counter(outcome for outcome, _ in rows)
        counted, in_save = number[COUNTED] + number[WRONG], sum(row['in_save'] for each, row in rows if each == COUNTED)
        cells = [name, processes, f'{counted} of {wanted}', in_save, number[EARLY], number[LATE], number[WRONG]]
        text.append(f'| {" | ".join(map(str, cells))} |')
    terms = [row for row in kills if row['signal'] == 'SIGTERM']
    timed = [row['deaf_s'] for row in terms if 'deaf_s' in row]
    if timed:
        told = f'of {len(terms)} rows {len(timed)} say how long'
        text += ['', f'Steps went on for at most {max(timed)} s after SIGTERM ({told}).']
    text += ['', '| damage | rows | outcomes |', '|---|---|---|']
    for kind in dict.fromkeys(row['damage'] for row in damages):
        outcomes = Counter(row['outcome'] for row in damages if row['damage'] == kind)
        said = ', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())
        text.append(f'| {kind} | {outcomes.total()} | {said} |')
    return '\n'.join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=45, help='start nothing new after that')
    deadline = time.monotonic() + 60 * parser.parse_args().minutes
    os.environ.pop('PYTHONDONTWRITEBYTECODE', None)  # a start costs a third more without compiled modules
    with tempfile.TemporaryDirectory() as temporary:
        os.environ['PYTHONPYCACHEPREFIX'] = f'{temporary}/modules'
        damages, kills = disk(Path(temporary), deadline), killed(Path(temporary), deadline)
    print(tables(kills, damages))
    wrong = [row for row in kills if judged(row)[1]] + [row for row in damages if row['outcome'] not in damage.RIGHT]
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
