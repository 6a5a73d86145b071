"""Pictures as PNG files: an attention mask with its chunks, attention maps, loss curves, a bar chart of methods.

Colours are Okabe and Ito's, which colour-blind readers tell apart. Figures are made without pyplot, so
nothing here has global state.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pic_jax.config import RunConfig
from pic_jax.errors import PicJaxError
from pic_jax.files import replacing
from pic_jax.masks import Layout, make_layout
from pic_jax.training.writers import SPLITS, parse_record

_MASK_TOKENS = 96
DPI = 150
# What a cell shows -> its colour; the order is the code in the picture.
_CELLS = {
    'not seen': '#f4f4f4',
    'context sees context': '#56b4e9',
    'context sees memory': '#cc79a7',
    'memory sees context': '#e69f00',
    'memory sees memory': '#009e73',
}
CURVES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
MARKERS = 'osD^vP*'


def _save(path: str | os.PathLike, figure: Figure) -> None:
    """Writes the PNG; what was there stays until the new file is whole."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=DPI)


def _plain(text: Any) -> str:
    """A name from outside, in which matplotlib is to find no formula."""
    return str(text).replace('$', r'\$')


def plot_mask(
    path: str | os.PathLike, mask_SS: np.ndarray, kind_S: np.ndarray, chunk_S: np.ndarray, title: str
) -> None:
    """Draws who sees whom.

    Args:
      path: the PNG file.
      mask_SS: [S, S] bool, True where the query (row) attends to the key (column).
      kind_S: [S] int, 0 for a context token, 1 for a memory slot; all context stands before all memory.
      chunk_S: [S] int number of the position's chunk; a thin line is drawn wherever it changes.
      title: printed above.

    Raises:
      PicJaxError: the file cannot be written.
    """
    size, num_tokens = len(kind_S), int(np.sum(kind_S == 0))
    code_SS = np.where(mask_SS, 1 + 2 * kind_S[:, None] + kind_S[None, :], 0)
    figure = Figure(figsize=(6.4, 7.6), layout='constrained')
    axes = figure.subplots()
    axes.imshow(
        code_SS, cmap=ListedColormap(list(_CELLS.values())), vmin=0, vmax=len(_CELLS) - 1, interpolation='nearest'
    )
    borders = np.flatnonzero(np.diff(chunk_S)) + 0.5
    for draw in (axes.axhline, axes.axvline):
        for border in borders:
            draw(border, color='#777777', linewidth=0.5)
        draw(num_tokens - 0.5, color='black', linewidth=1.2)
    axes.set_xlabel(f'keys:  context ({num_tokens} tokens)  |  memory ({size - num_tokens} slots)')
    axes.set_ylabel(f'queries:  memory ({size - num_tokens} slots)  |  context ({num_tokens} tokens)')
    axes.set_title(title, fontsize=10)
    patches = [Patch(facecolor=colour, edgecolor='#777777', label=name) for name, colour in _CELLS.items()]
    shown = [patch for code, patch in enumerate(patches) if (code_SS == code).any()]
    lines = [Line2D([], [], color='#777777', linewidth=0.8, label='chunk boundary')] if len(borders) else []
    figure.legend(handles=shown + lines, loc='outside lower center', ncols=2, frameon=False)
    _save(path, figure)


def mask_tokens(config: RunConfig) -> int:
    """How many context tokens the picture shows: about 96 in whole chunks, at least two chunks, one window."""
    chunk = config.compressor.chunk_size or 1
    whole_chunks = max(_MASK_TOKENS // chunk, 2) * chunk
    longest = min(config.data.context_length, config.compressor.window or config.data.context_length)
    return min(whole_chunks, longest)


def curve_fields(config: RunConfig) -> tuple[str, ...]:
    """The fields of metrics.jsonl that say how a run went."""
    return tuple(f'{name}_nats' for name in config.objective.names) or ('loss',)


def has_mask(config: RunConfig) -> bool:
    """Whether the compressor reads the context through one."""
    return config.compressor.method != 'constant_memory'


def draw_mask(path: Path, config: RunConfig) -> None:
    """Draws the encoder's mask for one window of `mask_tokens(config)` tokens."""
    layout = make_layout(config.compressor, mask_tokens(config))
    plot_mask(path, layout.dense_mask(), layout.kind, layout.chunk, mask_title(layout))


def mask_title(layout: Layout) -> str:
    """What the picture of a layout shows, in one line or two."""
    compressor = layout.config
    title = f'{compressor.method}, ratio {compressor.ratio}: {layout.num_tokens} tokens to {layout.num_slots} vectors'
    if compressor.chunk_size:
        title += (
            f'\nchunk size {compressor.chunk_size}, context sees {compressor.context_sees}, '
            f'memory sees {compressor.memory_sees_memory}'
        )
    return title


def plot_attention(path: str | os.PathLike, attention_Lkn: np.ndarray, title: str) -> None:
    """Draws where memory slots look: one heat map per layer, and one of their mean.

    All maps share one colour scale, which goes with the square root of the attention so that weak attention shows.

    Args:
      path: the PNG file.
      attention_Lkn: [L, k, n] attention of slots on context tokens (`diagonality.memory_attention`).
      title: printed above.

    Raises:
      PicJaxError: the file cannot be written.
    """
    attention_Lkn = np.asarray(attention_Lkn)
    maps = {f'layer {number}': map_kn for number, map_kn in enumerate(attention_Lkn, start=1)}
    maps['mean of the layers'] = attention_Lkn.mean(axis=0)
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(1.0 + 3.0 * columns, 1.0 + 2.4 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    scale = PowerNorm(0.5, vmin=0, vmax=float(attention_Lkn.max()))
    for axes, (name, map_kn) in zip(grid.flat, maps.items(), strict=False):
        image = axes.imshow(map_kn, cmap='viridis', norm=scale, aspect='auto', interpolation='nearest')
        axes.set_title(name, fontsize=9)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    figure.supxlabel('context position', fontsize=10)
    figure.supylabel('memory slot', fontsize=10)
    figure.suptitle(title, fontsize=10)
    figure.colorbar(image, ax=grid, label='attention')
    _save(path, figure)


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl: one JSON object per line with an integer `step` and a `split`.

    Raises:
      PicJaxError: the file is missing or empty, or a line (named by its number) is no such object.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read: {error.strerror}') from error
    if not lines:
        raise PicJaxError(f'{path}: has no records: expected one JSON object per line')
    return [parse_record(f'{path}:{number}', line) for number, line in enumerate(lines, start=1)]


def plot_curves(path: str | os.PathLike, runs: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> None:
    """Draws metrics over steps: training as a thin line, validation as a line with markers.

    Runs beyond the number of colours are dashed, then dotted.

    Args:
      path: the PNG file.
      runs: name of each run -> its records (`read_metrics`).
      metrics: fields of the records, one subplot each.

    Raises:
      PicJaxError: no run has one of the metrics, or the file cannot be written.
    """
    legend_rows = -(-(len(runs) + len(SPLITS)) // 3)
    figure = Figure(figsize=(6.4, 0.4 + 0.2 * legend_rows + 3.4 * len(metrics)), layout='constrained')
    for axes, metric in zip(figure.subplots(len(metrics), squeeze=False).flat, metrics, strict=True):
        for index, records in enumerate(runs.values()):
            for split, steps, values in _series(records, metric):
                style = (
                    dict(linewidth=0.7, alpha=0.8)
                    if split == 'train'
                    else dict(linewidth=1.6, marker=MARKERS[index % len(MARKERS)], markersize=5)
                )
                axes.plot(steps, values, color=CURVES[index % len(CURVES)], linestyle=_dashes(index), **style)
        if not axes.lines:
            raise PicJaxError(f'metric {metric!r} is in no record of {", ".join(runs)}: expected {_fields(runs)}')
        axes.set_ylabel(metric)
        axes.grid(color='#dddddd', linewidth=0.5)
        axes.set_xlabel('step')
    handles = [
        Line2D(
            [],
            [],
            color=CURVES[index % len(CURVES)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=_dashes(index),
            label=_plain(name),
        )
        for index, name in enumerate(runs)
    ]
    styles: dict[str, dict[str, Any]] = {
        'train': dict(linewidth=0.7),
        'validation': dict(linewidth=1.6, marker='o', markersize=5),
    }
    splits = {record['split'] for records in runs.values() for record in records}
    handles += [
        Line2D([], [], color='#777777', label=split, **style) for split, style in styles.items() if split in splits
    ]
    figure.legend(handles=handles, loc='outside upper center', ncols=min(3, len(handles)), frameon=False)
    _save(path, figure)


def _dashes(index: int) -> Literal['-', '--', ':']:
    """The line of a run, so that those that share a colour differ."""
    dashes: tuple[Literal['-', '--', ':'], ...] = ('-', '--', ':')
    return dashes[index // len(CURVES) % 3]


def _series(records: Sequence[dict], metric: str) -> Iterator[tuple[str, list[int], list[float]]]:
    """For each split that has the metric: its name, the steps and the values."""
    for split in SPLITS:
        points = [(r['step'], r[metric]) for r in records if r['split'] == split and _is_number(r.get(metric))]
        if points:
            yield split, [step for step, _ in points], [value for _, value in points]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fields(runs: Mapping[str, Sequence[dict]]) -> str:
    names = {name for records in runs.values() for record in records for name in record if _is_number(record[name])}
    return 'one of ' + ', '.join(sorted(names - {'step'}))


Lines = Mapping[str, Sequence[tuple[float, Sequence[float]]]]


def plot_sweep(path: str | os.PathLike, lines: Lines, xlabel: str, ylabel: str) -> None:
    """Draws a metric against a swept number: means over seeds, with a band from the lowest to the highest.

    Args:
      path: the PNG file.
      lines: {label: [(x, values of all seeds)]}, all finite. The axis of x is logarithmic where every x is positive.

    Raises:
      PicJaxError: there is nothing to draw, or the file cannot be written.
    """
    if not any(lines.values()):
        raise PicJaxError(f'{path}: there is nothing to draw: expected at least one line with a point')
    figure = Figure(figsize=(6.4, 4.2), layout='constrained')
    axes = figure.subplots()
    draw_sweep(axes, lines, xlabel, ylabel)
    axes.legend(frameon=False)
    _save(path, figure)


def draw_sweep(axes: Axes, lines: Lines, xlabel: str, ylabel: str) -> None:
    """`plot_sweep` on axes of a figure; at least one line has a point."""
    for index, (label, pairs) in enumerate(lines.items()):
        colour, xs = CURVES[index % len(CURVES)], [x for x, _ in pairs]
        means = [sum(values) / len(values) for _, values in pairs]
        axes.plot(xs, means, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=5, label=_plain(label))
        lows, highs = ([bound(values) for _, values in pairs] for bound in (min, max))
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
    ticks = sorted({x for pairs in lines.values() for x, _ in pairs})
    if min(ticks) > 0:
        axes.set_xscale('log', base=2)
    axes.set_xticks(ticks, [f'{x:g}' for x in ticks])
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color='#dddddd', linewidth=0.5)
    axes.spines[['top', 'right']].set_visible(False)


def plot_bars(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], xlabel: str, title: str) -> None:
    """Draws a table of methods as horizontal bars, the first row on top.

    Args:
      path: the PNG file.
      rows: at least one with `method` and a finite `value`, and where there is an interval `low` and `high`.
      xlabel: what the values are, with their unit.
      title: printed above.

    Raises:
      PicJaxError: no rows, a value that is not finite, or the file cannot be written.
    """
    for row in rows:
        if not all(math.isfinite(row[key]) for key in ('value', 'low', 'high') if key in row):
            raise PicJaxError(f'{path}: the value of {row["method"]} is not finite: {dict(row)}')
    if not rows:
        raise PicJaxError(f'{path}: there is nothing to draw: expected at least one row')
    figure = Figure(figsize=(6.4, 1.2 + 0.34 * len(rows)), layout='constrained')
    axes = figure.subplots()
    ends = []
    for y, row in enumerate(rows):
        value, low, high = row['value'], row.get('low', row['value']), row.get('high', row['value'])
        axes.barh(y, value, height=0.65, color=CURVES[0])
        if 'low' in row or 'high' in row:
            axes.plot([low, high], [y, y], color='black', linewidth=1.2, marker='|', markersize=7)
        positive = value >= 0
        ends.append(max(high, value) if positive else min(low, value))
        axes.annotate(
            f'{value:.3f}', (ends[-1], y), xytext=(5 if positive else -5, 0), textcoords='offset points',
            ha='left' if positive else 'right', va='center', fontsize=9,
        )  # fmt: skip
    span = max(*ends, 0) - min(*ends, 0) or 1.0
    axes.set_xlim(
        min(*ends, 0) - (0.15 * span if min(ends) < 0 else 0), max(*ends, 0) + (0.15 * span if max(ends) > 0 else 0)
    )
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_plain(row['method']) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.set_title(title, fontsize=10)
    axes.spines[['top', 'right']].set_visible(False)
    _save(path, figure)
