"""`pic-jax ablate`: trains and scores every row of a sweep; seeds and learning rates run together."""

import argparse
import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pic_jax.cli import settings

if TYPE_CHECKING:
    from pic_jax.evaluation.ablation import Row

HELP = 'train and score every row of a sweep; run again with the same workdir to go on'
EXAMPLE = """examples:
  pic-jax ablate --config=configs/sweeps/chunk_size.py --workdir=runs/chunk_size
  pic-jax ablate --config=configs/sweeps/chunk_size.py --workdir=runs/quick --config.train.steps=20 --examples=24

FILE defines get_config() and get_sweep(), a list of overrides like {'compressor.ratio': 8, 'seed': 0}. Two stages, the
second from the weights of the first, row by row:
  pic-jax ablate --config=configs/sweeps/chunk_size.py:words --workdir=runs/words --save
  pic-jax ablate --config=configs/sweeps/chunk_size.py --workdir=runs/chunk_size --start_from=runs/words
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sweep, the workdir and what to score on."""
    settings.add_arguments(parser)
    parser.add_argument('--split', default='validation', choices=('validation', 'test'))
    parser.add_argument('--examples', type=int, default=1000, metavar='N', help='how many at the most (default 1000)')
    parser.add_argument('--save', action='store_true', help='keep the weights of every row (rows/NAME/)')
    parser.add_argument(
        '--start_from', metavar='DIR', type=Path, help='start each row from the weights of the same row in that sweep'
    )
    parser.add_argument('--json', action='store_true', help='print the stored rows as JSON instead of the table')


def run(args: argparse.Namespace) -> int:
    """Prints the table; writes sweep.csv, report.html and, where a number is swept, plots; 1 if a row failed."""
    from pic_jax.errors import ConfigError
    from pic_jax.evaluation import ablation, plots
    from pic_jax.evaluation.sweep_report import write_sweep_report
    from pic_jax.files import write_text
    from pic_jax.training.workdir import refuse_run

    refuse_run(Path(args.workdir))
    if args.examples < 1:
        raise ConfigError(f'--examples={args.examples} is not valid: expected a positive number')
    values, sweep, workdir = settings.load_file(args.config), settings.load_sweep(args.config), Path(args.workdir)
    swept = {key for overrides in sweep for key in overrides}
    fixed = [word for word in args.overrides if word.removeprefix('--config.').partition('=')[0] in swept]
    if fixed:
        raise ConfigError(f'{fixed[0]} is not valid: the sweep sets that key in its rows')
    rows = []
    for overrides in sweep:
        words = [f'--config.{key}={value!r}' for key, value in overrides.items()]
        try:
            config, error = settings.resolve(copy.deepcopy(values), [*words, *args.overrides]), None
        except ConfigError as refused:
            config, error = None, str(refused)
        row = ablation.Row(overrides, config, error)
        rows.append(started(row, args.start_from) if config and args.start_from else row)
    stored, failures = ablation.run_sweep(
        rows, workdir, args.split, args.examples, lambda line: print(line, file=sys.stderr, flush=True), args.save
    )
    if stored:
        write_text(workdir / 'sweep.csv', ablation.to_csv(stored))
        print(json.dumps(stored, indent=1) if args.json else ablation.to_text(stored))
    for task, metric in ablation.PLOTTED:
        key, lines = ablation.series(stored, task, metric)
        if lines:
            path = workdir / 'plots' / f'{task}_{metric}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.plot_sweep(path, lines, key, f'{task}: {metric}')
            print(path, file=sys.stderr)
    print(write_sweep_report(workdir, stored, failures), file=sys.stderr)
    for name, error in failures.items():
        print(f'failed: {name}: {error}', file=sys.stderr)
    return 1 if failures else 0


def started(row: 'Row', sweep: Path) -> 'Row':
    """The row with its namesake in another sweep as `start`; without settings, and an error, where that has no weights.

    Raises:
      ConfigError: the row has a start already.
    """
    from pic_jax.errors import ConfigError
    from pic_jax.evaluation import ablation

    if row.settings.start:
        raise ConfigError(f'--start_from={sweep} is not valid: {row.name} has start={row.settings.start} already')
    if not ablation.has_weights(sweep, row):
        return row._replace(config=None, error=f'{sweep} has no weights of this row: expected a sweep run with --save')
    return row._replace(config=dataclasses.replace(row.settings, start=str(ablation.weights_folder(sweep, row))))
