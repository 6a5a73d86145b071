"""report.html of a sweep: all rows of an ablation on one page, with what failed."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pic_jax.config import RunConfig, from_mapping
from pic_jax.errors import PicJaxError
from pic_jax.evaluation import ablation, plots, report
from pic_jax.evaluation.markup import Html, element, folded, picture, table
from pic_jax.evaluation.sample_views import sample_views
from pic_jax.files import write_text
from pic_jax.training.workdir import flat

Stored = Sequence[dict[str, Any]]


def write_sweep_report(workdir: Path, stored: Stored, failures: Mapping[str, str]) -> Path:
    """Writes the page of a sweep into its workdir.

    Args:
      stored, failures: of `ablation.run_sweep`.

    Raises:
      PicJaxError: the page cannot be written.
    """
    path = workdir / report.NAME
    write_text(path, sweep_page(workdir.resolve().name, stored, failures))
    return path


def sweep_page(name: str, stored: Stored, failures: Mapping[str, str]) -> str:
    """The page of a sweep: equal rows give equal pages."""
    facts: dict[str, Any] = {'Rows': len(stored), 'Failed': len(failures)}
    sections = {'Failures': lambda: _failures(failures)} if failures else {}
    if stored:
        first = stored[0]
        swept = dict.fromkeys(key for row in stored for key in row['overrides'])
        facts |= {'Swept': ', '.join(swept), 'Scored on': f'{first["split"]}, at most {first["examples"]} examples'}
        facts |= {'Target model': first['config']['base'], 'Data': first['config']['data']['source']}
        views = {
            'Results': _results, 'Validation curves': _curves, 'Rows': _rows, 'Attention masks': _masks,
            'Configuration': _settings, 'Environment': _environments,
        }  # fmt: skip
        for heading, view in views.items():
            sections[heading] = functools.partial(report.checked, 'a file in rows/', view, stored)
    return report.assembled(f'Sweep {name}', facts, sections)


def _failures(failures: Mapping[str, str]) -> list[Html]:
    lines = [['row', 'what went wrong'], *([name, element('span', '✗ ', error)] for name, error in failures.items())]
    return [
        table('Rows without a result', lines),
        element(
            'p', 'Tracebacks of trainings are in rows/NAME.error.txt. The same command tries again.', class_='note'
        ),
    ]


def _results(stored: Stored) -> list[Html]:
    keys = [key for key in dict.fromkeys(key for row in stored for key in row['overrides']) if key != 'seed']
    drawn = []
    for task, metric in ablation.PLOTTED:
        key, series = ablation.series(stored, task, metric)
        if series:
            title = f'{task}: {metric} against {key}'
            draw = functools.partial(plots.plot_sweep, lines=series, xlabel=key, ylabel=f'{task}: {metric}')
            caption = f'{title}: means over seeds, bands from the lowest to the highest.'
            drawn.append(picture(draw, f'{title}; the table above has the values', caption))
    caption = 'Mean [lowest, highest] over seeds, of the swept method'
    means = table(caption, ablation.setting_cells(stored), heads=max(len(keys), 1))
    return [means, element('div', *drawn, class_='pictures')]


def _curves(stored: Stored) -> list[Html]:
    """The mean validation loss of each setting."""
    losses: dict[str, dict[int, list[float]]] = {}
    for row in stored:
        label = ', '.join(f'{k.rpartition(".")[2]} {v}' for k, v in row['overrides'].items() if k != 'seed')
        for record in row['curve']:
            losses.setdefault(label or 'validation', {}).setdefault(record['step'], []).append(record['loss'])
    if not losses:
        raise PicJaxError('the rows have no validation curves')
    runs = {
        label: [{'step': step, 'split': 'validation', 'loss': float(np.mean(found))} for step, found in steps.items()]
        for label, steps in losses.items()
    }
    drawn = picture(
        lambda path: plots.plot_curves(path, runs, ('loss',)),
        f'Validation loss of {len(runs)} settings over steps; every row below has its own as a table',
        'Validation loss, mean over seeds.',
    )
    return [drawn]


def _rows(stored: Stored) -> list[Html]:
    return [_row(row) for row in stored]


def _row(row: Mapping[str, Any]) -> Html:
    """One training, folded: its tables, its validations, its samples."""
    parts = [*report.result_tables(row['rows']), *report.validation_table(row['curve'])]
    if 'samples' in row:  # rows of before they were kept have none
        parts.append(folded('Samples', *sample_views(row['samples'])))
    return folded(row['name'], *parts)


def _masks(stored: Stored) -> list[Html]:
    configs = {row['name']: from_mapping(RunConfig, row['config']) for row in stored}
    return [element('div', *report.mask_pictures(configs), class_='pictures')]


def _settings(stored: Stored) -> list[Html]:
    """What all rows share, and what differs, also where an override has brought other settings along."""
    found = [flat(row['config']) for row in stored]
    keys = dict.fromkeys(key for values in found for key in values)
    shared = {key: found[0].get(key) for key in keys if all(values.get(key) == found[0].get(key) for values in found)}
    differing = [key for key in keys if key not in shared]
    parts = [folded('Settings that all rows share', report.settings_table(shared))]
    if differing:
        lines = [
            [row['name'], *(json.dumps(values.get(key)) for key in differing)]
            for row, values in zip(stored, found, strict=True)
        ]
        parts.append(folded('Settings that differ', table('Settings that differ', [['row', *differing], *lines])))
    return parts


def _environments(stored: Stored) -> list[Html]:
    """A column for each environment that rows were made in; their times lie apart and are left out."""
    groups: dict[str, list[str]] = {}
    for row in stored:
        values = {key: value for key, value in row['environment'].items() if key != 'time'}
        groups.setdefault(json.dumps(values), []).append(row['name'])
    columns = {f'{len(names)} rows, from {names[0]}': json.loads(values) for values, names in groups.items()}
    seeds = sorted({row['config']['seed'] for row in stored})
    return [report.environment_table(columns, {'seeds': ', '.join(map(str, seeds))})]
