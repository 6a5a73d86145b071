"""`pic-jax plot`: loss curves of runs, and the attention mask of the first with its chunks."""

import argparse
import sys
from pathlib import Path

from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.training.workdir import read_config

HELP = 'draw loss curves and the attention mask of one or more workdirs'
EXAMPLE = """examples:
  pic-jax plot runs/pic
  pic-jax plot runs/icae runs/pic --out comparison
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdirs and the output folder."""
    parser.add_argument('workdirs', metavar='WORKDIR', nargs='+', help='folder of a run')
    parser.add_argument('--out', metavar='DIR', help='folder of the pictures (default: plots/ in the first WORKDIR)')


def run(args: argparse.Namespace) -> int:
    """Draws both pictures and prints their paths; returns the exit code.

    Raises:
      ConfigError: a workdir is given twice.
      PicJaxError: a file of a workdir is missing or broken, or a picture cannot be written.
    """
    from pic_jax.evaluation import plots  # matplotlib is slow to import; every verb's parser imports this module

    workdirs = [Path(workdir) for workdir in args.workdirs]
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise ConfigError(f'WORKDIR={" ".join(args.workdirs)} is not valid: expected each folder once')
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = args.workdirs
    runs = {name: plots.read_metrics(workdir / 'metrics.jsonl') for name, workdir in zip(names, workdirs, strict=True)}
    config = read_config(workdirs[0])
    out = Path(args.out) if args.out else workdirs[0] / 'plots'
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PicJaxError(f'{out}: cannot be made a folder: {error.strerror}') from error
    print(f'drawing {len(runs)} run(s) into {out}', file=sys.stderr)
    plots.plot_curves(out / 'loss.png', runs, plots.curve_fields(config))
    print(out / 'loss.png')
    if plots.has_mask(config):
        plots.draw_mask(out / 'mask.png', config)
        print(out / 'mask.png')
    return 0
