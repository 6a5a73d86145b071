"""Every method of the headline experiment at 4x in one table, and how near IC-Former comes to ICAE."""

import math

import numpy as np
from headline import CONSTANT, PEERS, SUFFIX, WINDOWED, value
from headline_rows import Row, minus, points, rows_of, share, spread
from pages import table

RATIO = 4
METHODS = ('pic', 'epl', 'icae', WINDOWED, *PEERS, CONSTANT)
METRICS = {'EM': 'em', 'F1': 'f1', 'ROUGE-L': 'rougeL'}  # older rows have no ROUGE


def peers_block() -> str:
    """The table of the methods that have rows, the methods that have none, and the comparison with ICAE."""
    rows = {label: rows_of(label, RATIO) for label in METHODS}
    names = {name: metric for name, metric in METRICS.items() if any(scores(found, metric) for found in rows.values())}
    heading = ('method', 'k', *names, f'EM minus {CONSTANT}, points', '95% over contexts', 'seeds')
    lines = [[label, *_cells(label, found, names), str(len(found))] for label, found in rows.items() if found]
    missing = [label for label, found in rows.items() if not found]
    notes = [f'No rows yet: {", ".join(missing)}.'] if missing else []
    near = nearness('IC-Former', rows['icformer'], rows['icae'])
    near += nearness('IC-Former in windows of one chunk', rows['icformer' + SUFFIX], rows[WINDOWED])
    return '\n\n'.join([table(heading, lines), *notes, *near])


def _cells(label: str, rows: list[Row], names: dict[str, str]) -> list[str]:
    """k, a spread for every metric, and the gain over vectors that see no context."""
    k = np.mean([cell['k'] for row in rows for cell in row['rows'] if cell['metric'] == 'em'])
    gain = minus(label, CONSTANT, RATIO) if label != CONSTANT else None
    gained = [spread(gain.by_seed, points), f'[{points(gain.low)}, {points(gain.high)}]'] if gain else ['-', '-']
    return [f'{k:.1f}', *(_spread(rows, metric) for metric in names.values()), *gained]


def _spread(rows: list[Row], metric: str) -> str:
    """Over the seeds that have the metric; how many, where it is not all of them."""
    found = scores(rows, metric)
    return spread(found, share) + (f' of {len(found)}' if 0 < len(found) < len(rows) else '')


def scores(rows: list[Row], metric: str) -> list[float]:
    """A metric of the questions, of the rows that have it."""
    return [found for found in (value(row, metric) for row in rows) if not math.isnan(found)]


def nearness(name: str, ours: list[Row], theirs: list[Row]) -> list[str]:
    """What share of ICAE's score IC-Former reaches, in a line for F1 and one for ROUGE-L where both have it."""
    lines = []
    for metric in ('F1', 'ROUGE-L'):
        found, others = (scores(rows, METRICS[metric]) for rows in (ours, theirs))
        if found and any(others):
            reached = 100 * np.mean(found) / np.mean(others)
            lines.append(f"{name} reaches {reached:.0f}% of the {metric} of ICAE's same form (the paper: over 90%).")
    return lines
