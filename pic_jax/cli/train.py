"""`pic-jax train`: trains a compressor; the same command with the same workdir resumes."""

import argparse
import sys
from pathlib import Path

from pic_jax.cli import settings
from pic_jax.config.checks import is_whole_number

HELP = 'train a compressor; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax train --config=configs/tinystories.py --config.compressor.method=icae --workdir=runs/icae

Exit code 75: told to stop (SIGTERM, with a checkpoint), or a step did not end. Exit code 134: another process of the
job died. The same command goes on from the newest checkpoint.
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See the epilog."""
    settings.add_arguments(parser)
    modes = 'auto (where the environment names them), on, off'
    parser.add_argument('--distributed', default='auto', metavar='MODE', help=f'join the other processes: {modes}')
    parser.add_argument(
        '--profile_steps',
        type=step_range,
        default=range(0),
        metavar='A:B',
        help='trace steps A to B of the main process into WORKDIR/profile, e.g. 10:15',
    )
    parser.add_argument(
        '--log_to', default='', metavar='NAMES', help='also send records to tensorboard and/or wandb (with a comma)'
    )


def step_range(text: str) -> range:
    """Steps A to B of `A:B`, both counted.

    Raises:
      argparse.ArgumentTypeError: it is no such range.
    """
    first, _, last = text.partition(':')
    if not (is_whole_number(first) and is_whole_number(last) and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f'{text!r} is not valid: expected two steps, e.g. 10:15')
    return range(int(first), int(last) + 1)


def run(args: argparse.Namespace) -> int:
    """Trains; prints the workdir, where it leaves report.html."""
    config = settings.resolve(settings.load_file(args.config), args.overrides)
    from pic_jax import distributed
    from pic_jax.evaluation.environment import environment, record_environment
    from pic_jax.evaluation.report import write_report
    from pic_jax.run import open_run
    from pic_jax.training.loop import Watch
    from pic_jax.training.sharding import make_mesh
    from pic_jax.training.train import train

    distributed.start(args.distributed)
    workdir, here = Path(args.workdir), environment()  # of the code that runs, whatever the commit is later
    watch = Watch(args.profile_steps, tuple(dict.fromkeys(filter(None, args.log_to.split(',')))))
    train(open_run(config, make_mesh(config.mesh)), workdir, watch)
    if not distributed.is_main():
        return 0
    record_environment(workdir, 'train', here)
    print(write_report(workdir), file=sys.stderr)
    print(args.workdir)
    return 0
