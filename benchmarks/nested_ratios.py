"""One nested compressor against one compressor per ratio, on questions through the bundled model.

All start from the compressor that ships (4x) and take the same number of steps; the nested one draws a ratio for each,
so that every ratio has about a third of them. A run takes up to three minutes of a core and leaves one small JSON file
in benchmarks/results/nested_ratios; runs that are there are skipped, interrupted ones resume.

    python benchmarks/nested_ratios.py              train and score what is missing, print the table
    python benchmarks/nested_ratios.py --seeds 0    of some seeds
    python benchmarks/nested_ratios.py --table      only print the table
"""

import argparse
import collections
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from provenance import provenance

RESULTS = Path(__file__).parent / 'results' / 'nested_ratios'
RATIOS, SEEDS, STEPS = (4, 8, 16), (0, 1, 2), 60
NESTED = 'nested'
# Overrides of compressor.* per run.
ARMS = {NESTED: [f'ratio={RATIOS[0]}', f'ratios={RATIOS}'], **{f'only_{r}x': [f'ratio={r}'] for r in RATIOS}}
METRICS = {'nats_per_token': 'nats/token', 'em': 'exact match'}


def run_arm(arm: str, seed: int, workdir: Path) -> None:
    """Trains a compressor, scores it on every ratio that it serves, and writes the row."""
    from pic_jax.cli.demo import asked_of, demo_config
    from pic_jax.cli.settings import resolve
    from pic_jax.evaluation import harness, tables
    from pic_jax.evaluation.plots import read_metrics
    from pic_jax.files import write_text
    from pic_jax.nested import served_ratios, trainable_at
    from pic_jax.run import open_run
    from pic_jax.training.ratios import drawn_ratios
    from pic_jax.training.train import train

    folder = workdir / f'{arm}-s{seed}'
    words = [f'seed={seed}', f'train.steps={STEPS}', f'train.eval_every={STEPS}', 'train.checkpoint_every=10']
    words += [f'compressor.{option}' for option in ARMS[arm]]
    run = open_run(resolve(demo_config().to_dict(), [f'--config.{word}' for word in words]))
    origin, config = provenance(seed), run.config.compressor  # of the code that runs, whatever HEAD is later
    trainable = train(run, folder)
    records, ratios = asked_of(run), served_ratios(config)
    rows = {}
    for ratio in ratios:
        weights = trainable_at(config, trainable, ratio)
        scored, _ = harness.evaluate(run.at_ratio(ratio), weights, records, len(records), (config.method,))
        rows[ratio] = tables.to_dicts(scored)
    seconds = sum(record.get('elapsed_s', 0) for record in read_metrics(folder / 'metrics.jsonl'))
    drawn = collections.Counter(drawn_ratios(ratios, seed, range(STEPS)).tolist())
    result = {'arm': arm, 'options': ARMS[arm], 'steps': STEPS, 'steps_at': drawn, 'train_s': round(seconds, 1)}
    write_text(row_path(arm, seed), json.dumps(result | origin | {'rows': rows}, indent=1) + '\n')


def row_path(arm: str, seed: int) -> Path:
    """Where a finished run is kept."""
    return RESULTS / f'{arm}-s{seed}.json'


def is_done(arm: str, seed: int) -> bool:
    """Whether the row is there.

    Raises:
      SystemExit: it is, but was trained with other settings.
    """
    if not row_path(arm, seed).exists():
        return False
    row = json.loads(row_path(arm, seed).read_text())
    for key, ours in (('steps', STEPS), ('options', ARMS[arm])):
        if row[key] != ours:
            raise SystemExit(f'{row_path(arm, seed)} has {key}={row[key]}, this run {ours}: delete what is out of date')
    return True


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: per ratio, the dedicated and the nested compressor; mean [lowest, highest] over seeds."""

    def values(arm: str, ratio: int, metric: str) -> dict[int, float]:
        cells = [(row['seed'], cell) for row in rows if row['arm'] == arm for cell in row['rows'].get(str(ratio), ())]
        return {seed: cell['value'] for seed, cell in cells if (cell['task'], cell['metric']) == ('qa', metric)}

    heading = ['ratio', *(f'{name}, {arm}' for name in METRICS.values() for arm in ('dedicated', NESTED, 'difference'))]
    lines = [heading, ['---'] * len(heading)]
    for ratio in RATIOS:
        line = [f'{ratio}x']
        for metric in METRICS:
            alone, nested = values(f'only_{ratio}x', ratio, metric), values(NESTED, ratio, metric)
            pairs = [nested[seed] - alone[seed] for seed in alone if seed in nested]
            line += [spread(alone.values()), spread(nested.values()), spread(pairs, '+.3f')]
        lines.append(line)
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def spread(values: Iterable[float], show: str = '.3f') -> str:
    """Mean [lowest, highest]."""
    values = list(values)
    if not values:
        return '-'
    return f'{statistics.mean(values):{show}} [{min(values):{show}}, {max(values):{show}}]'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workdir', type=Path, default=Path('runs/nested_ratios'))
    parser.add_argument('--seeds', type=int, nargs='*', default=SEEDS)
    parser.add_argument('--table', action='store_true')
    args = parser.parse_args()
    for seed in () if args.table else args.seeds:
        for arm in ARMS:
            if not is_done(arm, seed):
                run_arm(arm, seed, args.workdir)
    print(table([json.loads(path.read_text()) for path in sorted(RESULTS.glob('*.json'))]))


if __name__ == '__main__':
    main()
