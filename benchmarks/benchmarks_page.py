"""Writes BENCHMARKS.md from the stored results; measures nothing.

python benchmarks/benchmarks_page.py
"""

import json
from pathlib import Path
from typing import NamedTuple

import attention_memory
import backends
import compression_time
import plan
import remat
import scaling
import train_step
from pages import Section, origin, stored, table

ROOT = Path(__file__).parents[1]
NEAR = 0.95  # shares of the fastest above this are no difference that a noisy machine can show


class Slower(NamedTuple):
    """Something that takes longer than what it is compared with; ratio: its time over the peer's."""

    what: str
    peer: str
    ratio: float
    script: str


def slower_training() -> list[Slower]:
    """Passes of the training step that the fastest PyTorch peer does in less time."""
    found = []
    for row in stored('train_step').values():
        for what in train_step.PASSES:
            ratios = row['ratios'][what]
            ratio = 1 / ratios['peers'][ratios['fastest']]['median']
            place = f'training step, {what}, {row["cores"]} pinned core{"s" * (row["cores"] > 1)}'
            found.append(Slower(place, f'PyTorch, {ratios["fastest"]}', ratio, 'train_step'))
    return [each for each in found if each.ratio > 1]


def slower_attention() -> list[Slower]:
    """Shapes where `auto` does not take the fastest backend."""
    found = []
    for layout, row in stored('backends').items():
        for point in row['points']:
            for name in backends.PASSES:
                if point[name]['auto_share'] < NEAR:
                    place = f'attention `auto`, {layout.replace("_", " ")}, {point["n"]:,} tokens, {name}'
                    others = point[name]['seconds'].keys() - {point['auto']['backend']}
                    fastest = min(others, key=point[name]['seconds'].get)
                    found.append(Slower(place, fastest, 1 / point[name]['auto_share'], 'backends'))
    return found


def sections() -> list[Section]:
    """All tables that have results."""
    steps = [*stored('train_step').values()]
    layouts = {name: row for name in backends.LAYOUTS if (row := _read(backends.path(name)))}
    growth = {name: row for name in scaling.LAYOUTS if (row := _read(scaling.path(name)))}
    times, plans = [*stored('compression_time').values()], plan.stored()
    rows, policies = _read(attention_memory.RESULTS / 'rows.json'), _read(remat.RESULTS / 'train_step.json')
    # Title, script, the rows shown, and how.
    found = [
        ('A training step here and in PyTorch', 'train_step', steps, lambda: '\n\n'.join(map(train_step.table, steps))),
        ('Attention backends', 'backends', layouts.values(), lambda: backends.shown(layouts)),
        ('How compressing grows with the context', 'scaling', growth.values(), lambda: scaling.table(growth)),
        ('Remat policies', 'remat', [policies] if policies else [], lambda: remat.shown(policies)),
        (
            'Memory of attention on TPUs, compiled and not run', 'attention_memory', [rows] if rows else [],
            lambda: attention_memory.shown(rows['rows']),
        ),
        ('Whole programs on TPUs, compiled and not run', 'plan', plans.values(), lambda: plan.table(plans)),
        ('IC-Former and ICAE', 'compression_time', times, lambda: compression_time.table(times)),
    ]  # fmt: skip
    return [Section(title, name, origin(shown), text()) for title, name, shown, text in found if shown]


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.is_file() else None


def page() -> str:
    """The whole page."""
    text = [
        '# Benchmarks',
        'Made by `python benchmarks/benchmarks_page.py` from the JSON files in `benchmarks/results/`. Every table '
        'names its script. Nothing was run on a GPU or a TPU.',
        '## What is slower than its peer',
    ]
    behind = sorted(slower_training() + slower_attention(), key=lambda each: -each.ratio)
    lines = [[each.what, each.peer, f'{each.ratio:.2f}x', f'`{each.script}`'] for each in behind]
    heading = ['what', 'the peer', 'time over that of the peer', 'script']
    text.append(table(heading, lines) if behind else 'Nothing of what was measured.')
    return '\n\n'.join([*text, *(section.shown() for section in sections())]) + '\n'


def main() -> None:
    (ROOT / 'BENCHMARKS.md').write_text(page())


if __name__ == '__main__':
    main()
