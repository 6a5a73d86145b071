"""report.html of a run: one page with all that its workdir says, made from the files there and from nothing else."""

import dataclasses
import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pic_jax.budget import memory_slots
from pic_jax.config import RunConfig, to_mapping
from pic_jax.errors import PicJaxError
from pic_jax.evaluation import environment, plots, samples, tables
from pic_jax.evaluation.costs import Cost
from pic_jax.evaluation.markup import Html, element, folded, joined, page, picture, table
from pic_jax.evaluation.sample_views import sample_views
from pic_jax.files import read_json, write_text
from pic_jax.masks import make_layout
from pic_jax.nested import at_ratio, served_ratios
from pic_jax.training.weights import NAME as WEIGHTS
from pic_jax.training.workdir import flat, read_config

NAME = 'report.html'
_LINES = 30  # of a table of validations

Section = Callable[[], Sequence[Html]]


class MissingError(PicJaxError):
    """A part of the page whose file is not there; `command` makes it."""

    def __init__(self, name: str, command: str):
        super().__init__(f'{name} is not there yet. It is made by')
        self.command = command


def write_report(workdir: Path) -> Path:
    """Writes the page of a run into its workdir; parts that are missing or broken are named in their place.

    Raises:
      PicJaxError: the workdir has no readable config.json, or the page cannot be written.
    """
    path = workdir / NAME
    write_text(path, run_page(workdir, read_config(workdir)))
    return path


def run_page(workdir: Path, config: RunConfig) -> str:
    """The page of a run: equal files give equal pages."""

    def of(name: str, view: Callable[[dict[str, Any]], list[Html]]) -> Section:
        return lambda: checked(name, view, _stored(workdir, name))

    sections: dict[str, Section] = {
        'Results': of('results.json', functools.partial(_results, workdir)),
        'Samples': of(samples.NAME, sample_views),
        'Training curves': functools.partial(_curves, workdir, config),
        'Attention mask': lambda: [element('div', *mask_pictures({'': config}), class_='pictures')],
        'Configuration': lambda: [folded('All settings', settings_table(flat(to_mapping(config))))],
        'Environment': of(environment.NAME, functools.partial(_environment, config)),
    }
    return assembled(f'Run {workdir.resolve().name}', _facts(config), sections)


def assembled(title: str, facts: Mapping[str, Any], sections: Mapping[str, Section]) -> str:
    """A page of sections; one that fails says why, and is named at the top."""
    bodies, gaps, links = [], [], []
    for heading, make in sections.items():
        anchor = heading.lower().replace(' ', '-')
        try:
            content = list(make())
        except PicJaxError as error:
            command = [' ', element('code', error.command)] if isinstance(error, MissingError) else []
            content = [element('p', str(error), *command, class_='missing')]
            gaps.append(element('a', heading, href=f'#{anchor}'))
        links.append(element('li', element('a', heading, href=f'#{anchor}')))
        bodies.append(element('section', element('h2', heading), joined(content), id=anchor))
    terms = [element('div', element('dt', name), element('dd', value)) for name, value in facts.items()]
    top = [element('h1', title), element('dl', joined(terms))]
    if gaps:
        top.append(element('p', 'Parts of this page are missing: ', joined(gaps, ', '), '.', class_='missing'))
    nav = element('nav', element('ul', joined(links)), aria_label='Sections')
    return page(title, [element('header', joined(top), nav), *bodies])


def _facts(config: RunConfig) -> dict[str, str]:
    compressor, data = config.compressor, config.data
    weights = dataclasses.asdict(config.objective)
    slots = [f'{memory_slots(at_ratio(compressor, ratio), data.context_length)} ({ratio}x)'
             for ratio in served_ratios(compressor)]  # fmt: skip
    return {
        'Method': compressor.method,
        'Compression': f'{data.context_length} tokens to {" or ".join(slots)} vectors',
        'Target model': config.base,
        'Objectives': ', '.join(f'{name} {weight:g}' for name, weight in weights.items() if weight),
        'Data': data.source,
        'Training': f'{config.train.steps} steps of {config.train.batch_size}',
        'Seed': str(config.seed),
    }  # fmt: skip


def _stored(workdir: Path, name: str) -> dict[str, Any]:
    if not (workdir / name).is_file():
        raise MissingError(name, _eval_command(workdir))
    return read_json(workdir / name)


def _eval_command(workdir: Path) -> str:
    return f'pic-jax eval --workdir={shlex.quote(str(workdir))}'


def checked(name: str, view: Callable[[Any], list[Html]], stored: Any) -> list[Html]:
    """What a view makes of stored values, whose inside nobody has checked yet.

    Raises:
      PicJaxError: they are not as the view expects them; `name` says which.
    """
    try:
        return view(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PicJaxError(f'{name} is not as docs/FORMATS.md says: {error!r}') from error


def _results(workdir: Path, stored: dict[str, Any]) -> list[Html]:
    parts = [
        element('p', f'Scored on the split {stored.get("split")} of {stored.get("source")}. Brackets: 95% bootstrap '
                     'intervals. Nats per token are better where lower, all other metrics where higher.')
    ]  # fmt: skip
    step, trained = stored.get('step'), _last_step(workdir)
    if None not in (step, trained) and step != trained:
        stale = f'Scored at step {step}; the run has been trained to step {trained} since. Score it again: '
        parts.append(element('p', stale, element('code', _eval_command(workdir)), class_='missing'))
    parts += result_tables(stored.get('rows', []))
    costs = {method: Cost(**cost) for method, cost in stored.get('costs', {}).items()}
    if costs:
        parts.append(table('What one context costs under each method', tables.cost_cells(costs)))
    for metric in ('bleu', 'rouge'):
        if f'{metric}_signature' in stored:
            signature = element('code', stored[f'{metric}_signature'])
            parts.append(element('p', f'{metric.upper()}: ', signature, class_='note'))
    return parts


def _last_step(workdir: Path) -> int | None:
    """How far the run is; None where metrics.jsonl does not tell, which the section of curves reports."""
    try:
        return plots.read_metrics(workdir / 'metrics.jsonl')[-1]['step']
    except PicJaxError:
        return None


def result_tables(stored: Sequence[Mapping[str, Any]]) -> list[Html]:
    """A table for each task of stored rows, with a line per method."""
    rows, found = tables.from_dicts(stored), []
    for task in dict.fromkeys(row.task for row in rows):
        chosen = [row for row in rows if row.task == task]
        sizes = sorted({row.n for row in chosen})
        count = f'{sizes[0]}' if len(sizes) == 1 else f'{sizes[0]} to {sizes[-1]}'
        lines = [line[1:] for line in tables.row_cells(chosen)]
        found.append(table(f'{task}: {count} examples', [lines[0], *(list(map(_spaced, line)) for line in lines[1:])]))
    return found


def _spaced(cell: str) -> Html | str:
    """A value with its interval set apart."""
    value, bracket, rest = cell.partition(' [')
    return Html(element('b', value) + ' ' + element('span', f'[{rest}', class_='interval')) if bracket else cell


def _curves(workdir: Path, config: RunConfig) -> list[Html]:
    if (workdir / WEIGHTS).is_file():
        return [element('p', 'Saved weights: the curves are in the workdir that they were trained in.', class_='note')]
    if not (workdir / 'metrics.jsonl').is_file():
        raise MissingError('metrics.jsonl', f'pic-jax train --config=FILE --workdir={shlex.quote(str(workdir))}')
    records = plots.read_metrics(workdir / 'metrics.jsonl')
    names = plots.curve_fields(config)
    drawn = picture(
        lambda path: plots.plot_curves(path, {config.compressor.method: records}, names),
        f'Curves of {", ".join(names)} over {records[-1]["step"]} steps; the table below has the validations',
        f'{", ".join(names)} over optimizer steps.',
    )
    return [drawn, *validation_table([record for record in records if record['split'] == 'validation'])]


def validation_table(found: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Validation records, folded; at even distances where there are many."""
    if not found:
        return []
    last = len(found) - 1
    shown = [found[round(number * last / (_LINES - 1))] for number in range(_LINES)] if last >= _LINES else found
    names = [name for name in dict.fromkeys(key for record in shown for key in record) if name != 'split']
    lines = [[_number(record.get(name)) for name in names] for record in shown]
    caption = f'Validation: {len(shown)} of {len(found)} records'
    return [folded('Validation as a table', table(caption, [names, *lines]))]


def _number(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else '-' if value is None else str(value)


def mask_pictures(configs: Mapping[str, RunConfig]) -> list[Html]:
    """A picture for each layout among the settings, and whose it is."""
    groups: dict[tuple[str, bytes], list[str]] = {}
    chosen: dict[tuple[str, bytes], RunConfig] = {}
    parts = []
    for name, config in configs.items():
        if not plots.has_mask(config):
            parts.append(element('p', name, ': ' * bool(name), 'constant_memory reads no context, so it has no mask.'))
            continue
        layout = make_layout(config.compressor, plots.mask_tokens(config))
        key = plots.mask_title(layout).replace('\n', '; '), layout.dense_mask().tobytes()
        chosen.setdefault(key, config)
        groups.setdefault(key, []).append(name)
    for key, names in groups.items():
        alt = f'Attention mask of {key[0]}. Rows attend to columns, context first, then memory.'
        caption = f'Rows attend to columns. {key[0]}.' + f' In {", ".join(names)}.' * bool(names[0])
        parts.append(picture(functools.partial(_draw_mask, chosen[key]), alt, caption))
    return parts


def _draw_mask(config: RunConfig, path: Path) -> None:
    plots.draw_mask(path, config)


def settings_table(values: Mapping[str, Any], caption: str = 'Resolved settings') -> Html:
    """Dotted keys and their values."""
    return table(caption, [['setting', 'value'], *([key, json.dumps(value)] for key, value in values.items())])


def _environment(config: RunConfig, stored: dict[str, Any]) -> list[Html]:
    return [environment_table({f'pic-jax {verb}': values for verb, values in stored.items()}, {'seed': config.seed})]


def environment_table(columns: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> Html:
    """A column for each environment, under it what all have in common."""
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    lines = [[key, *(_known(values.get(key)) for values in columns.values())] for key in keys]
    lines += [[key, *([value] * len(columns))] for key, value in shared.items()]
    return table('Where the numbers were made', [['', *columns], *lines])


def _known(value: Any) -> str:
    return 'not known' if value is None else str(value)
