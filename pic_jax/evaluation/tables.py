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
    'em_q1': 'EM, 1st quarter', 'em_q2': 'EM, 2nd quarter', 'em_q3': 'EM, 3rd quarter', 'em_q4': 'EM, 4th quarter',
}  # fmt: skip


def to_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as {"method","ratio","k","task","metric","value","low","high","n"}; what is not finite becomes None."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in map(dataclasses.asdict, rows)
    ]


def to_text(rows: Sequence[Row], costs: Mapping[str, Cost] = types.MappingProxyType({})) -> str:
    """One line per task, method and ratio, one column per metric, 95% intervals in brackets.

    Recall by position has columns of its own and makes a second table, and so do the costs.
    """
    parts = [[row for row in rows if (row.task == 'qa_by_position') is by_position] for by_position in (False, True)]
    lines = [['method', 'compression GFLOPs', 'stored bytes', 'first token, ms']]
    for method, cost in costs.items():
        flops, wait = f'{cost.compression_flops / 1e9:.4g}', f'{1e3 * cost.first_token_s:.2f}'
        lines.append([method, flops, f'{cost.stored_bytes:.0f}', wait])
    return '\n\n'.join([*(_table(part) for part in parts if part), *([align(lines)] if costs else [])])


def to_csv(tables: Sequence[Sequence[Row]], costs: Sequence[Mapping[str, Cost]]) -> str:
    """One line per row of all tables, with the costs of its method in that table."""
    fields, cost_fields = ([field.name for field in dataclasses.fields(kind)] for kind in (Row, Cost))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*fields, *cost_fields])
    for rows, by_method in zip(tables, costs, strict=True):
        for row in rows:
            cost = by_method.get(row.method)
            writer.writerow([*dataclasses.astuple(row), *(dataclasses.astuple(cost) if cost else ())])
    return out.getvalue()


def _table(rows: Sequence[Row]) -> str:
    metrics = [metric for metric in HEADINGS if any(row.metric == metric for row in rows)]
    lines = [['task', 'method', 'ratio', 'k', *(HEADINGS[metric] for metric in metrics)]]
    cells = {(row.task, row.method, row.ratio, row.k, row.metric): row for row in rows}
    for task, method, ratio, k in dict.fromkeys((row.task, row.method, row.ratio, row.k) for row in rows):
        line = [task, method, f'{ratio:.1f}x' if math.isfinite(ratio) else '-', f'{k:.1f}'.removesuffix('.0')]
        for metric in metrics:
            row = cells.get((task, method, ratio, k, metric))
            line.append(f'{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]' if row else '-')
        lines.append(line)
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells as text with columns, two spaces apart."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip
