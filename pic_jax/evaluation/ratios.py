"""A table for every ratio that a nested compressor serves."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.config.checks import is_whole_number
from pic_jax.data.examples import TokenisedRecord
from pic_jax.errors import ConfigError
from pic_jax.evaluation.controls import without_memory
from pic_jax.evaluation.costs import Cost, costs
from pic_jax.evaluation.harness import Row, evaluate, methods_of, score
from pic_jax.nested import served_ratios, trainable_at
from pic_jax.run import Run


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of one ratio, and each method's answers where the run has questions."""

    ratio: int
    rows: list[Row]
    answers: dict[str, list[str]]


def chosen_ratios(run: Run, text: str | None) -> list[int]:
    """The ratios of `--ratios=4,16`, ascending; all that the compressor serves where it is not given.

    Raises:
      ConfigError: something else, or a ratio that is not served.
    """
    served = served_ratios(run.config.compressor)
    words = text.split(',') if text is not None else map(str, served)
    found = {int(word) if is_whole_number(word.strip()) else None for word in words}
    chosen = [ratio for ratio in served if ratio in found]
    if len(chosen) != len(found):
        raise ConfigError(f'--ratios={text} is not valid: expected some of {",".join(map(str, served))}')
    return sorted(chosen)


def tables_at(
    run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], limit: int, ratios: Sequence[int]
) -> list[Table]:
    """`harness.evaluate` at each ratio.

    Controls that do not depend on it have rows in the first table only, and count in the shares of the gap in all.
    """
    methods = methods_of(run)
    fixed = without_memory(methods) if len(ratios) > 1 else []
    known = score(run, trainable, records[:limit], fixed, limit) if fixed else {}
    found: list[Table] = []
    for ratio in ratios:
        view, weights = run.at_ratio(ratio), trainable_at(run.config.compressor, trainable, ratio)
        names = [name for name in methods if not found or name not in fixed]
        found.append(Table(ratio, *evaluate(view, weights, records, limit, names, known)))
    return found


def costs_of(run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], table: Table) -> dict[str, Cost]:
    """What each method of a table costs; `k` is the mean over the tasks' examples."""
    sizes: dict[str, list[tuple[float, int]]] = {}
    for row in table.rows:
        if row.metric == 'nats_per_token':  # a row for every task
            sizes.setdefault(row.method, []).append((row.k, row.n))
    k = {method: sum(k * n for k, n in found) / sum(n for _, n in found) for method, found in sizes.items()}
    weights = trainable_at(run.config.compressor, trainable, table.ratio)
    return costs(run.at_ratio(table.ratio), weights, records, k)


def named(tables: Sequence[Table], values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each table has by method as one: names of ratios after the first are `METHOD RATIOx`."""
    names: dict[str, Any] = {}
    for table, by_method in zip(tables, values, strict=True):
        suffix = '' if table is tables[0] else f' {table.ratio}x'
        names |= {method + suffix: value for method, value in by_method.items()}
    return names
