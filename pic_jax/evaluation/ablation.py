"""Ablations: many short trainings from one file of overrides, with one small JSON file for each.

Rows that differ in seed, learning rate or `start` only are trained together (training/ensemble.py). Finished rows are
skipped, so the same command goes on with the ones that are missing; what fails is listed and does not stop the rest.
"""

import csv
import dataclasses
import io
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pic_jax.config import RunConfig, from_mapping, to_mapping
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation import harness, samples, tables
from pic_jax.evaluation.controls import CONTROLS, without_memory
from pic_jax.evaluation.environment import environment
from pic_jax.files import read_json, write_text
from pic_jax.run import Run, named_folder, open_run
from pic_jax.training.ensemble import member_keys, train_members
from pic_jax.training.weights import NAME as WEIGHTS
from pic_jax.training.weights import weights_sha256, write_weights
from pic_jax.training.workdir import flat

Overrides = Mapping[str, Any]
SCORED_ON = ('split', 'examples')
SAMPLES = 2  # kept of every row
LAST_LOSS = ('validation', 'loss')
# What is plotted against a swept number, and shown first.
PLOTTED = (
    ('qa', 'em'),
    ('icl', 'accuracy'),
    ('continuation', 'gap_share'),
    ('reconstruction', 'token_accuracy'),
    LAST_LOSS,
)


class Scored(NamedTuple):
    """A member's table and answers, and by method the scores that every member of its group has too."""

    cells: list[harness.Row]
    answers: dict[str, list[str]]
    known: dict[str, harness.Scores]


class Row(NamedTuple):
    """One training of a sweep: its overrides, and the settings they lead to or why they lead to none."""

    overrides: Overrides
    config: RunConfig | None
    error: str | None = None

    @property
    def settings(self) -> RunConfig:
        """The settings of a row that has some.

        Raises:
          ConfigError: the overrides lead to none.
        """
        if self.config is None:
            raise ConfigError(f'{self.name}: {self.error}')
        return self.config

    @property
    def name(self) -> str:
        """`ratio=8,seed=0`: names its file."""
        parts = (f'{key.rpartition(".")[2]}={value}' for key, value in self.overrides.items())
        return re.sub(r'[^\w.,=+-]', '_', ','.join(parts)) or 'default'


def run_sweep(
    rows: Sequence[Row], folder: Path, split: str, examples: int, note: Callable[[str], None], save: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Trains and scores what is missing in a folder.

    Args:
      split: of the data to score on. examples: at the most. note: takes lines about the progress.
      save: keep the weights of every row in `rows/NAME/`, where another sweep may start from them.

    Returns:
      the stored rows, in the order of `rows`, and {name: what went wrong} of the others.

    Raises:
      ConfigError: two rows share a name, or a stored row was made with other settings.
      PicJaxError: the file of a stored row is damaged.
    """
    names = [row.name for row in rows]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f'the sweep has two rows {twice[0]}: expected overrides that differ')
    missing = [
        row for row in rows
        if row.config and not (is_stored(row, folder, split, examples) and (has_weights(folder, row) or not save))
    ]  # fmt: skip
    failures = {row.name: row.error for row in rows if row.error}
    probe = folder / 'rows' / '.writable'  # fails before hours of training, not after
    write_text(probe, '')
    probe.unlink()
    for group in groups(missing):
        note(' '.join(row.name for row in group))
        for name, error in run_group(group, folder, split, examples, note, save).items():
            failures[name] = error.strip().splitlines()[-1]
            write_text(folder / 'rows' / f'{name}.error.txt', error)
            note(f'failed: {name}: {failures[name]}')
    return [read_stored(row_path(folder, row)) for row in rows if row_path(folder, row).is_file()], failures


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows whose settings are equal but for `member_keys`, in order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        free = member_keys(row.settings)
        shared = {key: value for key, value in flat(to_mapping(row.settings)).items() if key not in free}
        found.setdefault(json.dumps(shared, sort_keys=True), []).append(row)
    return list(found.values())


def run_group(
    group: Sequence[Row], folder: Path, split: str, examples: int, note: Callable[[str], None], save: bool
) -> dict[str, str]:
    """Trains the rows of a group together and writes their files.

    Returns:
      {name: traceback or message} of what failed, whatever it was: it must not take other rows with it.
    """
    try:
        first = open_run(group[0].settings)
        prefix = first.config.decoder_prefix
        runs = [dataclasses.replace(first, config=dataclasses.replace(row.settings, decoder_prefix=prefix))
                for row in group]  # fmt: skip
        records, origin = harness.held_out(first, split), environment()
        starts = [start_sha256(row.settings) for row in group]  # of what is read now, whatever stands there later
        outcomes, seconds = train_members(runs, note)
    except Exception:  # reported with its traceback; other groups go on
        return {row.name: traceback.format_exc() for row in group}
    failures, first_scored = {}, None
    for row, run, start, outcome in zip(group, runs, starts, outcomes, strict=True):
        try:
            if outcome.error:
                raise PicJaxError(outcome.error)
            if save:
                write_weights(weights_folder(folder, row), run.config, outcome.trainable)
            scored = evaluate_member(run, outcome.trainable, records, examples, first_scored)
            first_scored = first_scored or scored
            shown = samples.collect(run, outcome.trainable, records[:examples], scored.answers, SAMPLES)
            stored: dict[str, Any] = {'name': row.name, 'overrides': dict(row.overrides), 'start_sha256': start}
            stored |= {'config': to_mapping(row.settings)}
            stored |= {'split': split, 'examples': examples, 'environment': origin}
            stored |= {'trained_together': len(group), 'together_s': round(seconds, 1)}
            stored |= {'curve': outcome.curve, 'rows': tables.to_dicts(scored.cells), 'samples': shown}
            write_text(row_path(folder, row), json.dumps(stored, indent=1, allow_nan=False) + '\n')
            (folder / 'rows' / f'{row.name}.error.txt').unlink(missing_ok=True)
        except Exception:  # likewise, for the other rows of the group
            failures[row.name] = traceback.format_exc()
    return failures


def row_path(folder: Path, row: Row) -> Path:
    """Where a finished row is kept."""
    return folder / 'rows' / f'{row.name}.json'


def read_stored(path: Path) -> dict[str, Any]:
    """A stored row that tables can be made of.

    Raises:
      PicJaxError: the file is not as docs/FORMATS.md says.
    """
    stored = read_json(path)
    try:
        from_mapping(RunConfig, stored['config'])
        to_text([{key: stored[key] for key in ('overrides', 'config', 'curve', 'rows', *SCORED_ON)}])
    except (ConfigError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise PicJaxError(
            f'{path} is not as docs/FORMATS.md says: {error!r}; without the file the row is trained again'
        ) from error
    return stored


def evaluate_member(run: Run, trainable: Any, records: Sequence[Any], examples: int, first: Scored | None) -> Scored:
    """A member's table and answers.

    A group shares the target, the data and the number of vectors, so of the controls only `shuffled_memory` depends on
    the member. The others have the cells, intervals included, and the answers of the first one.

    Args:
      first: what this function gave for the first member of the group; None for that member itself.
    """
    methods = harness.methods_of(run)
    if first is None:
        known = harness.score(run, trainable, records[:examples], without_memory(methods), examples)
        return Scored(*harness.evaluate(run, trainable, records, examples, methods, known), known)
    shared = [name for name in methods if name in CONTROLS and name != 'shuffled_memory']
    own = [name for name in methods if name not in shared]
    cells, answers = harness.evaluate(run, trainable, records, examples, own, first.known)
    cells += [cell for cell in first.cells if cell.method in shared]
    return Scored(cells, answers | {name: first.answers[name] for name in shared if name in first.answers}, first.known)


def weights_folder(folder: Path, row: Row) -> Path:
    """Where a row's weights are kept."""
    return folder / 'rows' / row.name


def has_weights(folder: Path, row: Row) -> bool:
    """Whether they are there."""
    return (weights_folder(folder, row) / WEIGHTS).is_file()


def start_sha256(config: RunConfig) -> str | None:
    """Of the file of weights that `start` names; None without one: fresh weights, or the checkpoint of a run."""
    return weights_sha256(named_folder(config.start)) if config.start else None


def is_stored(row: Row, folder: Path, split: str, examples: int) -> bool:
    """Whether the row is there. The weights it started from may have moved, but not changed.

    Raises:
      ConfigError: it is, but was made with other settings or from other weights.
      PicJaxError: its file is damaged.
    """
    path = row_path(folder, row)
    if not path.is_file():
        return False
    stored = read_stored(path)
    made = flat(to_mapping(from_mapping(RunConfig, stored['config']))) | {key: stored[key] for key in SCORED_ON}
    wanted = flat(to_mapping(row.settings)) | {'split': split, 'examples': examples}
    starts = stored.get('start_sha256'), start_sha256(row.settings)  # rows of before it was kept have none
    if all(starts):
        made['start'], wanted['start'] = (f'weights of sha256 {digest}' for digest in starts)
    for key in wanted:
        if made[key] != wanted[key]:
            raise ConfigError(
                f'{path} was made with {key}={made[key]}, this sweep has {wanted[key]}: '
                'use another --workdir, or the same settings'
            )
    return True


class Point(NamedTuple):
    """All seeds of one setting: `values` has one score per seed, and where nothing was scored the last loss."""

    setting: dict[str, Any]
    seeds: list[int]
    values: dict[tuple[str, str], list[float]]


def points(stored: Sequence[dict[str, Any]]) -> list[Point]:
    """Scores of the swept method itself by (task, metric), seeds put together."""
    found: dict[str, Point] = {}
    for row in stored:
        setting = {key: value for key, value in row['overrides'].items() if key != 'seed'}
        point = found.setdefault(json.dumps(setting), Point(setting, [], {}))
        point.seeds.append(row['config']['seed'])
        for cell in row['rows']:
            if cell['method'] == row['config']['compressor']['method'] and cell['value'] is not None:
                point.values.setdefault((cell['task'], cell['metric']), []).append(cell['value'])
        if not row['rows']:
            point.values.setdefault(LAST_LOSS, []).append(row['curve'][-1]['loss'])
    return list(found.values())


def to_text(stored: Sequence[dict[str, Any]]) -> str:
    """One line per setting, one column per metric: mean [lowest, highest] over seeds."""
    return tables.align(setting_cells(stored))


def setting_cells(stored: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The heading and the lines of `to_text` as cells."""
    found = points(stored)
    settings = list(dict.fromkeys(key for point in found for key in point.setting))
    cells = [cell for cell in dict.fromkeys(cell for point in found for cell in point.values)
             if cell[0] != 'qa_by_position']  # fmt: skip
    lines = [[*(key.rpartition('.')[2] for key in settings), 'seeds', *(' '.join(cell) for cell in cells)]]
    for point in found:
        seeds = len(point.seeds)
        line = [str(point.setting.get(key, '')) for key in settings] + [str(seeds)]
        lines.append(line + [_spread(point.values.get(cell, []), seeds) for cell in cells])
    return lines


def to_csv(stored: Sequence[dict[str, Any]]) -> str:
    """One line per stored cell: the overrides of its row, then the columns of a result table."""
    settings = list(dict.fromkeys(key for row in stored for key in row['overrides']))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*settings, *(field.name for field in dataclasses.fields(harness.Row))])
    for row in stored:
        for cell in row['rows']:
            writer.writerow([*(row['overrides'].get(key, '') for key in settings), *cell.values()])
    return out.getvalue()


def _spread(values: Sequence[float], seeds: int) -> str:
    """Mean [lowest, highest], and of how many seeds where some have no value."""
    if not values:
        return '-'
    of = '' if len(values) == seeds else f' of {len(values)}'
    return f'{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]{of}'


def series(stored: Sequence[dict[str, Any]], task: str, metric: str) -> tuple[str, dict[str, list]]:
    """A metric against the first key that takes several numbers, a line for every combination of the other keys.

    Returns:
      the key, and {label: [(x, values of all seeds)] in order of x}; '' and {} where no key but the seed does.
    """
    found = points(stored)
    swept: dict[str, set] = {}
    for point in found:
        for key, value in point.setting.items():
            if type(value) in (int, float):
                swept.setdefault(key, set()).add(value)
    key = next((key for key, values in swept.items() if len(values) > 1), '')
    lines: dict[str, list] = {}
    for point in found if key else ():
        values, x = point.values.get((task, metric)), point.setting.get(key)
        if values and type(x) in (int, float):
            others = {other: value for other, value in point.setting.items() if other != key}
            label = ', '.join(f'{other.rpartition(".")[2]} {value}' for other, value in others.items()) or metric
            lines.setdefault(label, []).append((x, values))
    return key, {label: sorted(line) for label, line in lines.items()}
