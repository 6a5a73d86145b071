"""Result rows as a table for the terminal, and as plain dicts for JSON."""

import csv
import dataclasses
import io
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.evaluation.costs import Cost
from pic_jax.evaluation.harness import Row

HEADINGS = {
    'nats_per_token': 'nats/token', 'gap_share': 'share of gap', 'em': 'exact match', 'f1': 'F1',
    'token_accuracy': 'token accuracy', 'bleu4': 'BLEU-4', 'prefix_em': 'prefix EM',
    'rouge1': 'ROUGE-1', 'rougeL': 'ROUGE-L', 'accuracy': 'accuracy',
    'em_q1': 'EM, 1st quarter', 'em_q2': 'EM, 2nd quarter', 'em_q3': 'EM, 3rd quarter', 'em_q4': 'EM, 4th quarter',
}  # fmt: skip


def to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as {"method","ratio","k","task","metric","value","low","high","n"}; what is not finite becomes None."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in map(dataclasses.asdict, rows)
    ]


def to_text(rows: Sequence[Row], costs: Mapping[str, Cost] = types.MappingProxyType({})) -> str:
    """A table per task: one line per method, one column per metric, 95% intervals in brackets. The costs come last."""
    parts = [[row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)]
    lines = [['method', 'compression GFLOPs', 'stored bytes', 'first token, ms']]
    for method, cost in costs.items():
        flops, wait = f'{cost.compression_flops / 1e9:.4g}', f'{1e3 * cost.first_token_s:.2f}'
        lines.append([method, flops, f'{cost.stored_bytes:.0f}', wait])
    return '\n\n'.join([*map(_table, parts), *([align(lines)] if costs else [])])


def to_csv(rows: Sequence[Row], costs: Mapping[str, Cost]) -> str:
    """One line per row, with the costs of its method."""
    fields, cost_fields = ([field.name for field in dataclasses.fields(kind)] for kind in (Row, Cost))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*fields, *cost_fields])
    for row in rows:
        cost = costs.get(row.method)
        writer.writerow([*dataclasses.astuple(row), *(dataclasses.astuple(cost) if cost else ())])
    return out.getvalue()


def _table(rows: Sequence[Row]) -> str:
    """Of the rows of one task."""
    metrics = [metric for metric in HEADINGS if any(row.metric == metric for row in rows)]
    lines = [['task', 'method', 'ratio', 'k', *(HEADINGS[metric] for metric in metrics)]]
    cells = {(row.method, row.metric): row for row in rows}
    for method in dict.fromkeys(row.method for row in rows):
        any_row = next(row for row in rows if row.method == method)
        ratio = f'{any_row.ratio:.1f}x' if math.isfinite(any_row.ratio) else '-'
        line = [any_row.task, method, ratio, f'{any_row.k:.1f}'.removesuffix('.0')]
        for metric in metrics:
            row = cells.get((method, metric))
            line.append(f'{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]' if row else '-')
        lines.append(line)
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells as text with columns, two spaces apart."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip
