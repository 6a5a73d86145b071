"""Writes RELIABILITY.md from the stored results; runs nothing.

python benchmarks/reliability_page.py
"""

from pathlib import Path

import coverage_rows
import faults
import fuzz
import golden_spread
import long_run
import many_documents
from pages import Section, origin, stored, table
from provenance import rows_of

ROOT = Path(__file__).parents[1]


def kills_and_disks() -> Section | None:
    """Trainings killed at random moments, and checkpoints damaged in every file."""
    kept = stored('faults')
    if not kept:
        return None
    kills, damages = (rows_of(kept[name]) if name in kept else [] for name in ('killed', 'disk'))
    text = faults.tables(kills, damages)
    return Section('Killed trainings and damaged checkpoints', 'faults', origin([*kills, *damages]), text)


def readers() -> Section | None:
    """What damaged files do to every reader."""
    rows = fuzz.stored()
    if not rows:
        return None
    lines = []
    for name, row in rows.items():
        numbers = [f'{row[field]:,.0f}' for field in ('examples', 'accepted', 'seconds')]
        held_to = ', '.join(f'{what} ({count:,})' for what, count in row['held_to'].items())
        lines.append([name, *numbers, held_to, str(len(row['failures']))])
    total = [sum(row[field] for row in rows.values()) for field in ('examples', 'accepted', 'seconds')]
    failures = sum(len(row['failures']) for row in rows.values())
    lines.append(['all', *(f'{number:,.0f}' for number in total), '', str(failures)])
    heading = ['reader', 'damaged files', 'accepted', 'seconds', 'held to', 'failures']
    text = (
        'What is accepted is held to what a second, small reader makes of the bytes, or to rules that every result '
        'keeps (the column says how many of the files). A failure is a traceback, a hang, more than 1 GiB, or a '
        'difference.'
    )
    origins = origin(each for row in rows.values() for each in row['origins'])
    return Section('Damaged files', 'fuzz', origins, f'{text}\n\n{table(heading, lines)}')


def long_training() -> Section | None:
    """Whether anything grows over hours."""
    kept = {name: found['rows'] for name, found in stored('long_run').items()}
    if 'segments' not in kept:
        return None
    rows = kept.pop('segments')
    others = [(row['malloc'] or 'none', row) for found in kept.values() for row in found]
    minutes = ' and '.join(sorted({f'{row["minutes"]:g}' for row in rows}))
    so_far = f' of {long_run.SEGMENTS}' if len(rows) < long_run.SEGMENTS else ''
    older = [str(number) for number, row in enumerate(rows, 1) if 'reference_s' not in row['samples']]
    text = [
        f'{len(rows)}{so_far} segments of {minutes} minutes, with {long_run.MALLOC}; slopes are an hour, with their '
        '95% interval.' + f' Nothing tells how fast the machine was in segments {", ".join(older)}.' * bool(older),
        long_run.numbered(rows),
    ]
    if others:
        text += ["With other settings of glibc's malloc:", long_run.table(others, 'settings')]
    return Section('A long training', 'long_run', origin([*rows, *(row for _, row in others)]), '\n\n'.join(text))


def many() -> Section | None:
    """Compilations and memory of compressing many documents."""
    kept = stored('many_documents').get('rows')
    return kept and Section('Many documents', 'many_documents', origin([kept]), many_documents.table(kept))


def numbers() -> Section | None:
    """How far stored losses move, of themselves and in bfloat16."""
    kept = stored('golden').get('rows')
    rows = rows_of(kept) if kept else []
    return Section('Stored losses', 'golden_spread', origin(rows), golden_spread.table(rows)) if rows else None


def versions() -> Section | None:
    """The oldest and newest jax."""
    kept = stored('jax_versions').get('rows')
    if not kept:
        return None
    fields = ('which', 'python', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'passed', 'skipped', 'failed')
    rows = rows_of(kept)
    text = table(fields, [[str(row[field]) for field in fields] for row in rows])
    return Section('The oldest and the newest jax', 'jax_versions', origin(rows), text)


def lines() -> Section | None:
    """What the tests run."""
    kept = stored('coverage').get('rows')
    return kept and Section('Lines that the tests run', 'coverage_rows', origin([kept]), coverage_rows.shown(kept))


def page() -> str:
    """The whole page."""
    found = [kills_and_disks(), readers(), long_training(), many(), numbers(), versions(), lines()]
    text = [
        '# Reliability',
        'Made by `python benchmarks/reliability_page.py` from the JSON files in `benchmarks/results/`, which '
        '`make soak` and `make coverage` write (long trainings with other settings of malloc: `benchmarks/long_run.py '
        '--malloc`). What is promised about hostile files stands in SECURITY.md.',
        *(section.shown() for section in found if section),
    ]
    return '\n\n'.join(text) + '\n'


def main() -> None:
    (ROOT / 'RELIABILITY.md').write_text(page())


if __name__ == '__main__':
    main()
