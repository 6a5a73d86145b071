"""Quality against chunk size and ratio, from the rows of configs/sweeps/chunk_size.py that are committed.

    python benchmarks/chunk_size.py

Reads benchmarks/results/chunk_size/rows/answers/*.json (`rows/` of the sweep's second stage; the first one is kept in
words/). Writes docs/chunk_size.md, docs/chunk_size.png, and what stands between the marks `chunk size` of README.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from headline_rows import nats, share, spread
from matplotlib.figure import Figure
from pages import table, write_between_marks

from pic_jax.evaluation.ablation import points
from pic_jax.evaluation.plots import DPI, draw_sweep
from pic_jax.files import read_json

ROOT = Path(__file__).parents[1]
ROWS = ROOT / 'benchmarks' / 'results' / 'chunk_size' / 'rows' / 'answers'
SIZE, RATIO = 'compressor.chunk_size', 'compressor.ratio'
# Metric of the questions -> its name, and how it is shown.
METRICS = {'em': ('exact match', share), 'nats_per_token': ('nats per answer token', nats)}
ENDS = ('full_context', 'no_context')
NO_ROWS = 'No rows yet: see `configs/sweeps/chunk_size.py`.'
Stored = Sequence[dict[str, Any]]


def stored_rows() -> list[dict[str, Any]]:
    """The rows that are committed."""
    return [read_json(path) for path in sorted(ROWS.glob('*.json'))]


def end(stored: Stored, method: str, metric: str) -> float:
    """What the decoder scores on every word or on none: no row of the sweep changes it."""
    cells = [cell for row in stored for cell in row['rows']]
    return float(np.mean([cell['value'] for cell in cells if found(cell, method, metric)]))


def found(cell: dict[str, Any], method: str, metric: str) -> bool:
    return (cell['task'], cell['method'], cell['metric']) == ('qa', method, metric)


def metric_table(stored: Stored, metric: str) -> str:
    """A line per chunk size and one per end, a column per ratio: mean [lowest, highest] over seeds."""
    name, show = METRICS[metric]
    columns = by_ratio(stored, metric)
    lines = []
    for size in sorted({size for column in columns.values() for size in column}):
        cells = [spread(column.get(size, ()), show) for column in columns.values()]
        lines.append([f'{size} (one chunk)' if size >= longest(stored) else str(size), *cells])
    lines += [[method, *[show(end(stored, method, metric))] * len(columns)] for method in ENDS]
    return table([f'{name}, chunk size', *columns], lines)


def by_ratio(stored: Stored, metric: str) -> dict[str, dict[int, list[float]]]:
    """{'4x': {chunk size: values of all seeds}}, ratios and sizes ascending."""
    columns: dict[int, dict[int, list[float]]] = {}
    for point in points(stored):
        values = point.values.get(('qa', metric))
        if values:
            columns.setdefault(point.setting[RATIO], {})[point.setting[SIZE]] = values
    return {f'{ratio}x': dict(sorted(column.items())) for ratio, column in sorted(columns.items())}


def longest(stored: Stored) -> int:
    """Tokens of the longest context: a chunk as long is the only one."""
    return stored[0]['config']['data']['context_length']


def best_line(stored: Stored) -> str:
    """The chunk size with the highest mean exact match at every ratio."""
    best = {ratio: max(column, key=lambda size, column=column: np.mean(column[size]))
            for ratio, column in by_ratio(stored, 'em').items()}  # fmt: skip
    return 'Highest mean exact match: ' + ', '.join(f'{size} at {ratio}' for ratio, size in best.items()) + '.'


def counts_line(stored: Stored) -> str:
    """How many rows, seeds and questions the tables are about."""
    seeds = sorted({len(point.seeds) for point in points(stored)})
    questions = sorted({cell['n'] for row in stored for cell in row['rows'] if cell['task'] == 'qa'})
    number = f'{seeds[0]}' if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]}'
    return (
        f'{len(stored)} rows; means over {number} seeds with the lowest and the highest in brackets; '
        f'{" or ".join(map(str, questions))} questions of the {stored[0]["split"]} split.'
    )


def picture(stored: Stored) -> Figure:
    """A panel per metric, a line per ratio with a band over seeds; the ends are dashed."""
    figure = Figure(figsize=(10, 3.8), layout='constrained')
    for axes, (metric, (name, show)) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        lines = {ratio: list(column.items()) for ratio, column in by_ratio(stored, metric).items()}
        draw_sweep(axes, lines, 'chunk size, tokens', name)
        for method in ENDS:
            value = end(stored, method, metric)
            axes.axhline(value, color='#777777', linewidth=0.8, linestyle='--')
            axes.annotate(f'{method} {show(value)}', (0, value), xycoords=('axes fraction', 'data'), fontsize=8,
                          xytext=(3, 3), textcoords='offset points', color='#555555')  # fmt: skip
    figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=len(lines), frameon=False)
    return figure


def block(stored: Stored) -> str:
    """What README.md shows."""
    if not stored:
        return NO_ROWS
    image = '![quality against chunk size](docs/chunk_size.png)'
    return '\n\n'.join([metric_table(stored, 'em'), f'{counts_line(stored)} {best_line(stored)}', image])


def page(stored: Stored) -> str:
    """docs/chunk_size.md."""
    text = '# Which chunk size, at which ratio\n\n'
    if not stored:
        return text + NO_ROWS + '\n'
    machines = sorted({'{machine}, {cores} cores, {device}'.format(**row['environment']) for row in stored})
    commits = sorted({str(row['environment']['commit']) for row in stored})
    text += 'Made by `benchmarks/chunk_size.py` from the rows in `benchmarks/results/chunk_size/`; '
    text += f'machine: {", ".join(machines)}; commits: {", ".join(commits)}.\n\n'
    text += counts_line(stored) + ' ' + best_line(stored) + '\n'
    text += ''.join(f'\n{metric_table(stored, metric)}\n' for metric in METRICS)
    return text + '\n![quality against chunk size](chunk_size.png)\n'


def main() -> None:
    stored, docs = stored_rows(), ROOT / 'docs'
    (docs / 'chunk_size.md').write_text(page(stored))
    if stored:
        picture(stored).savefig(docs / 'chunk_size.png', dpi=DPI)
    write_between_marks(ROOT / 'README.md', 'chunk size', block(stored))
    print(counts_line(stored) if stored else f'{ROWS.relative_to(ROOT)}: no rows')


if __name__ == '__main__':
    main()
