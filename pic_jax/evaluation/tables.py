"""Result rows as a table for the terminal, and as plain dicts for JSON."""

import csv
import dataclasses
import io
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.errors import PicJaxError
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


def from_dicts(stored: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows that `to_dicts` wrote; None becomes nan, and for a ratio infinity.

    Raises:
      PicJaxError: a row has other keys.
    """
    absent: dict[str, Any] = {field.name: math.nan for field in dataclasses.fields(Row)} | {'ratio': math.inf}
    try:
        return [Row(**{key: absent[key] if value is None else value for key, value in row.items()}) for row in stored]
    except (TypeError, KeyError, AttributeError) as error:
        raise PicJaxError(f'a row of a table does not have the keys {", ".join(absent)} ({error})') from error


def to_text(rows: Sequence[Row], costs: Mapping[str, Cost] = types.MappingProxyType({})) -> str:
    """A table per task: one line per method, one column per metric, 95% intervals in brackets. The costs come last."""
    parts = [[row for row in rows if row.task == task] for task in dict.fromkeys(row.task for row in rows)]
    return '\n\n'.join(map(align, [*map(row_cells, parts), *([cost_cells(costs)] if costs else [])]))


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


def row_cells(rows: Sequence[Row]) -> list[list[str]]:
    """A heading, then a line of cells per task, method and ratio; metrics without a heading have their names."""
    found = dict.fromkeys(row.metric for row in rows)
    metrics = [metric for metric in HEADINGS if metric in found]
    metrics += [metric for metric in found if metric not in HEADINGS]
    lines = [['task', 'method', 'ratio', 'k', *(HEADINGS.get(metric, metric) for metric in metrics)]]
    cells = {(row.task, row.method, row.ratio, row.k, row.metric): row for row in rows}
    for task, method, ratio, k in dict.fromkeys((row.task, row.method, row.ratio, row.k) for row in rows):
        line = [task, method, f'{ratio:.1f}x' if math.isfinite(ratio) else '-', f'{k:.1f}'.removesuffix('.0')]
        for metric in metrics:
            row = cells.get((task, method, ratio, k, metric))
            line.append(_shown(row) if row else '-')
        lines.append(line)
    return lines


def _shown(row: Row) -> str:
    """The value with its interval, as far as they are numbers: a share is none where there is no gap."""
    interval = f' [{row.low:.3f}, {row.high:.3f}]' if math.isfinite(row.low + row.high) else ''
    return f'{row.value:.3f}{interval}' if math.isfinite(row.value) else '-'


def cost_cells(costs: Mapping[str, Cost]) -> list[list[str]]:
    """A heading and one line of cells per method."""
    lines = [['method', 'compression GFLOPs', 'stored bytes', 'first token, ms']]
    for method, cost in costs.items():
        flops, wait = f'{cost.compression_flops / 1e9:.4g}', f'{1e3 * cost.first_token_s:.2f}'
        lines.append([method, flops, f'{cost.stored_bytes:.0f}', wait])
    return lines


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells as text with columns, two spaces apart."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip
