"""Result rows as a table for the terminal, and as JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence

from pic_jax.evaluation.harness import Row

HEADINGS = {
    'nats_per_token': 'nats/token', 'gap_share': 'share of gap', 'em': 'exact match', 'f1': 'F1',
}  # fmt: skip


def to_json(rows: Sequence[Row]) -> str:
    """A JSON array of {"method","ratio","k","task","metric","value","low","high","n"}; infinite ratios are null."""
    return json.dumps([
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in map(dataclasses.asdict, rows)
    ], indent=1)  # fmt: skip


def to_text(rows: Sequence[Row]) -> str:
    """One line per task and method, one column per metric, 95% intervals in brackets."""
    metrics = [metric for metric in HEADINGS if any(row.metric == metric for row in rows)]
    lines = [['task', 'method', 'k', *(HEADINGS[metric] for metric in metrics)]]
    cells = {(row.task, row.method, row.metric): row for row in rows}
    for task, method in dict.fromkeys((row.task, row.method) for row in rows):
        k = next(row.k for row in rows if (row.task, row.method) == (task, method))
        line = [task, method, f'{k:.1f}'.removesuffix('.0')]
        for metric in metrics:
            row = cells.get((task, method, metric))
            line.append(f'{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]' if row else '-')
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip
