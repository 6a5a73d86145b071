"""Tables and plots of the headline experiment from its committed rows (benchmarks/results/headline).

    python benchmarks/headline_report.py

Writes docs/headline.md with every table, docs/headline_positions.png, docs/headline_curves.png, and what stands between
the marks `headline` and `every method at 4x` of README.md. Values are means over seeds with the lowest and the highest
seed in brackets.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from headline import MEASURED, PEERS, RATE_KEYS, WINDOWED, stored, value
from headline_peers import peers_block
from headline_rows import Row, minus, nats, points, rows_of, share, spread
from matplotlib.figure import Figure
from pages import table, write_between_marks

from pic_jax.evaluation.plots import CURVES, MARKERS

ROOT = Path(__file__).parents[1]
BASELINES = ('icae', 'epl', WINDOWED)
LABELS = ('pic', *BASELINES, 'constant_memory')
CONTROLS = ('truncate_last_k', 'no_context', 'full_context')
QUARTERS = tuple(f'em_q{number}' for number in range(1, 5))
PLATEAU = 0.01  # of the validation nats, over the last 30% of a stage


def control(ceiling: Row, method: str, metric: str) -> float:
    """A control's cell on questions."""
    return value({'rows': rows_of_control(ceiling, method)}, metric)


def rows_of_control(ceiling: Row, method: str) -> list[Row]:
    """The cells of one control."""
    return [cell for cell in ceiling['rows'] if cell['method'] == method]


def on_word_lists(cells: list[Row]) -> float:
    """Accuracy on word lists; older rows have it as the exact match of questions."""
    accuracy = value({'rows': cells}, 'accuracy', 'icl')
    return value({'rows': cells}, 'em') if math.isnan(accuracy) else accuracy


def ceilings_table() -> str:
    """What k vectors were fitted to say, and whether a ratio enters."""
    lines = []
    for ceiling in sorted(stored('ceiling'), key=lambda row: row['ratio']):
        constant = [value(row, 'em') for row in rows_of('constant_memory', ceiling['ratio'])]
        enters = 'yes' if constant and ceiling['optimised_exact'] - np.mean(constant) >= 0.2 else 'floor'
        controls = [share(control(ceiling, name, 'em')) for name in CONTROLS]
        fitted = f'{share(ceiling["optimised_exact"])} of {ceiling["answers"]}'
        ratio = f'{ceiling["ratio"]}x'
        lines.append(
            [ratio, f'{ceiling["k"]:.1f}', fitted, spread(constant, share), *controls, enters if constant else '-']
        )
    heading = ('ratio', 'k', 'fitted vectors', 'constant vectors', *CONTROLS, 'enters')
    return table(heading, lines)


def questions_table() -> str:
    """EM, F1, nats and word lists of every method at every ratio."""
    lines = []
    for ratio in MEASURED:
        for label in LABELS:
            rows = rows_of(label, ratio)
            lists = [on_word_lists(row['word_lists']) for row in rows]
            lines.append(
                [
                    f'{ratio}x', label, spread([value(row, 'em') for row in rows], share),
                    spread([value(row, 'f1') for row in rows], share),
                    spread([value(row, 'nats_per_token') for row in rows], nats), spread(lists, share),
                    str(len(rows)),
                ]
            )  # fmt: skip
        for name in CONTROLS:
            tables = [row for phase in ('ceiling', 'word_lists') for row in stored(phase) if row['ratio'] == ratio]
            cells = [control(t, name, metric) for t in tables[:1] for metric in ('em', 'f1', 'nats_per_token')]
            lists = [share(on_word_lists(rows_of_control(t, name))) for t in tables[1:]]
            shown = [show(cell) for show, cell in zip((share, share, nats), cells, strict=False)]
            lines.append([f'{ratio}x', name, *shown, *(lists or ['-']), ''])
    return table(('ratio', 'method', 'EM', 'F1', 'nats per token', 'word lists, EM', 'seeds'), lines)


def gains_table() -> str:
    """PIC minus the others in points of EM: range over seeds, interval over contexts, and relative to the other."""
    lines = []
    for ratio in MEASURED:
        for label in LABELS[1:]:
            gain = minus('pic', label, ratio)
            if gain:
                change = '-' if math.isnan(gain.relative) else points(gain.relative) + '%'
                interval = f'[{points(gain.low)}, {points(gain.high)}]'
                seeds = str(len(gain.by_seed))
                lines.append([f'{ratio}x', label, spread(gain.by_seed, points), interval, change, seeds])
    return table(('ratio', 'PIC minus', 'points of EM', '95% over contexts', 'relative', 'seeds'), lines)


def reconstruction_table() -> str:
    """What pretraining at 4x left, on test documents."""
    metrics = (
        ('reconstruction', 'token_accuracy', share), ('reconstruction', 'prefix_em', share),
        ('reconstruction', 'bleu4', lambda x: f'{100 * x:.1f}'), ('continuation', 'nats_per_token', nats),
    )  # fmt: skip
    lines = []
    for label in LABELS[:-1]:
        tables = [stage for row in rows_of(label, 4) for stage in row['stages'] if stage['stage'] == 'pretrain']
        lines.append([label, *(spread([value(t, name, task) for t in tables], show) for task, name, show in metrics)])
    heading = ('method', 'token accuracy', 'prefix EM', 'BLEU-4', 'continuation, nats per token')
    return table(heading, lines)


COSTS = {
    'steps': lambda stage: stage['steps'],
    'context tokens with padding, millions': lambda stage: stage['context_tokens'] / 1e6,
    'TFLOPs': lambda stage: stage['steps'] * stage['flops_per_step'] / 1e12,
    'seconds': lambda stage: stage['fastest_seconds'],
}


def curve(row: Row, cost: Callable[[Row], float], whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Cost and validation nats of the stage that the row's score belongs to; `whole`: with what came before it."""
    *before, stage = row['stages']
    spent = sum(cost(earlier) for earlier in before) if whole else 0
    steps = np.array([point['step'] for point in stage['curve']])
    return spent + cost(stage) * steps / stage['steps'], np.array([point['ft_nats'] for point in stage['curve']])


def plateaued(row: Row) -> bool:
    """Whether the validation nats fell by less than PLATEAU over the last 30% of the stage."""
    cost, loss = curve(row, COSTS['steps'], whole=False)
    at_70 = np.interp(0.7 * cost[-1], cost, loss)
    return bool((at_70 - loss[-1]) / at_70 < PLATEAU)


def passing_share(pic: Row, baseline: Row, cost: Callable[[Row], float], whole: bool) -> float | None:
    """The cost at which PIC's validation is as good as the baseline's best, over the baseline's cost until then.

    Between two validations the loss is taken as straight. None where PIC does not get there; nan where the baseline
    was at its best before it had cost anything.
    """
    (spent, loss), (other_spent, other_loss) = curve(pic, cost, whole), curve(baseline, cost, whole)
    best = other_loss.argmin()
    passed = np.flatnonzero(loss <= other_loss[best])
    if not len(passed):
        return None
    after = passed[0]
    before = max(after - 1, 0)
    reached = np.interp(-other_loss[best], -loss[[before, after]], spent[[before, after]])
    return float(reached / other_spent[best]) if other_spent[best] else math.nan


def time_table() -> str:
    """Time to peak: the share of a baseline's training that PIC needs to be as good as the baseline ever is."""
    lines = []
    for ratio in MEASURED:
        for label in BASELINES:
            others = {row['seed']: row for row in rows_of(label, ratio)}
            pairs = [(row, others[row['seed']]) for row in rows_of('pic', ratio) if row['seed'] in others]
            if not pairs:
                continue
            cells = []
            for name, whole in ('steps', False), ('steps', True), ('TFLOPs', True), ('seconds', True):
                shares = [passing_share(*pair, COSTS[name], whole) for pair in pairs]
                reached = [found for found in shares if found is not None and math.isfinite(found)]
                counts = {
                    'not': shares.count(None),
                    'baseline never improved': len(shares) - shares.count(None) - len(reached),
                }
                notes = [f'{what} in {number} of {len(shares)}' for what, number in counts.items() if number]
                cells.append(', '.join(([spread(reached, share)] if reached else []) + notes))
            flat = sum(plateaued(other) for _, other in pairs)
            lines.append([f'{ratio}x', label, *cells, f'{flat} of {len(pairs)}'])
    heading = ('ratio', 'baseline', 'steps on questions', 'steps in all', 'FLOPs in all', 'seconds in all', 'flat')
    return table(heading, lines)


def _options(options: list[str]) -> str:
    """What a row changes in the preset; tokens of a chunk depend on the ratio, so they have names."""
    named = [option.format(chunk='preset', two_chunks='2 x preset') for option in options]
    return ' '.join(named) or 'as in the preset'


def screening_table() -> str:
    """Options of PIC, and the learning rates of every method; validation."""
    lines = [
        [row['label'], _options(row['options']), row['phase'], nats(value(row, 'nats_per_token')),
         share(value(row, 'em'))]
        for phase in ('screen1', 'screen2')
        for row in sorted(stored(phase), key=lambda row: value(row, 'nats_per_token'))
    ]  # fmt: skip
    return table(('name', 'options', 'round', 'nats per token', 'EM'), lines)


def rates_table(ratio: int) -> str:
    """Every learning rate that was tried at a ratio; the lowest nats won."""
    found = {(row['label'], row[RATE_KEYS[ratio]]): row for row in stored('rate') if row['ratio'] == ratio}
    rates = sorted({rate for _, rate in found})
    lines = []
    for label in (*LABELS, *PEERS):
        cells = [trial(found[label, rate]) if (label, rate) in found else '' for rate in rates]
        if any(cells):  # icae_windowed takes the rates of icae
            lines.append([label, *cells])
    return table(('method', *(f'{rate:g}' for rate in rates)), lines)


def trial(row: Row) -> str:
    """Nats and EM of one trial."""
    if 'error' in row:
        return 'diverged'
    return f'{nats(value(row, "nats_per_token"))} ({share(value(row, "em"))})'


def plot_positions(path: Path) -> None:
    """EM by the quarter of the context in which the answer is told; a band from the lowest to the highest seed."""
    figure = Figure(figsize=(9, 3.2), layout='constrained')
    for axes, ratio in zip(figure.subplots(1, len(MEASURED), sharey=True), MEASURED, strict=True):
        for index, label in enumerate(LABELS):
            marks = [[100 * value(row, name, 'qa_by_position') for name in QUARTERS] for row in rows_of(label, ratio)]
            if marks:
                line(axes, index, label, range(1, 5), np.array(marks))
        axes.set_title(f'{ratio}x', fontsize=10)
        axes.set_xticks(range(1, 5))
        axes.set_xlabel('quarter of the context with the answer')
        axes.set_ylim(0, 100)
    figure.axes[0].set_ylabel('exact match, %')
    save(figure, path)


def plot_curves(path: Path) -> None:
    """Validation nats of the questions at each ratio against what training costs."""
    figure = Figure(figsize=(12, 8), layout='constrained')
    grid = figure.subplots(len(MEASURED), len(COSTS), sharey='row', squeeze=False)
    for row_axes, ratio in zip(grid, MEASURED, strict=True):
        for axes, (name, cost) in zip(row_axes, COSTS.items(), strict=True):
            for index, label in enumerate(LABELS):
                curves = [curve(row, cost) for row in rows_of(label, ratio)]
                if curves:
                    costs, losses = (np.array(column) for column in zip(*curves, strict=True))
                    line(axes, index, label, costs.mean(axis=0), losses)
            axes.set_xlabel(name)
        row_axes[0].set_ylabel(f'{ratio}x: nats per answer token')
    save(figure, path)


def line(axes, index: int, label: str, x, ys: np.ndarray) -> None:
    """The mean of ys [seeds, points] with a band from lowest to highest."""
    colour = CURVES[index]
    axes.plot(x, ys.mean(axis=0), color=colour, marker=MARKERS[index], markersize=4, label=label)
    axes.fill_between(x, ys.min(axis=0), ys.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.grid(color='#dddddd', linewidth=0.5)


def save(figure: Figure, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)
    print(path.relative_to(ROOT))


def readme_block() -> str:
    """EM per method and ratio, next to what bounds it."""
    ceilings = {row['ratio']: row for row in stored('ceiling')}
    lines = [
        [f'**{label}**' if label == 'pic' else label,
         *(spread([value(row, 'em') for row in rows_of(label, ratio)], share) for ratio in MEASURED)]
        for label in LABELS
    ]  # fmt: skip
    lines += [[name, *(share(control(ceilings[ratio], name, 'em')) for ratio in MEASURED)]
              for name in CONTROLS]  # fmt: skip
    lines.append(['fitted vectors', *(share(ceilings[ratio]['optimised_exact']) for ratio in MEASURED)])
    return table(('exact match', *(f'{ratio}x' for ratio in MEASURED)), lines)


def main() -> None:
    docs = ROOT / 'docs'
    commits = sorted(
        {
            row['commit']
            for phase in ('ceiling', 'word_lists', 'screen1', 'screen2', 'rate', 'main')
            for row in stored(phase)
        }
    )
    machines = sorted({row['machine'] for row in stored('main')})
    sections = {
        'What k vectors can hold': ceilings_table(),
        'Questions, on test': questions_table(),
        'What PIC gains': gains_table(),
        'Every method at 4x, on test': peers_block(),
        'Time to peak': time_table(),
        'Reconstruction and continuation after pretraining at 4x, on test': reconstruction_table(),
        'Screening of PIC at 4x, on validation': screening_table(),
        'Learning rates at 4x, on validation: nats per token (EM)': rates_table(4),
        'Learning rates at 8x, on validation: nats per token (EM)': rates_table(8),
    }
    text = '# The headline experiment, in full\n\nMade by `benchmarks/headline_report.py` from the rows in '
    text += f'`benchmarks/results/headline/`; machine: {", ".join(machines)}; commits: {", ".join(commits)}.\n'
    text += ''.join(f'\n## {title}\n\n{body}\n' for title, body in sections.items())
    text += '\n![recall by position](headline_positions.png)\n\n![curves](headline_curves.png)\n'
    (docs / 'headline.md').write_text(text)
    print('docs/headline.md')
    plot_positions(docs / 'headline_positions.png')
    plot_curves(docs / 'headline_curves.png')
    write_between_marks(ROOT / 'README.md', 'headline', readme_block())
    write_between_marks(ROOT / 'README.md', 'every method at 4x', peers_block())


if __name__ == '__main__':
    main()
