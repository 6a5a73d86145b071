"""`pic-jax train`: trains a compressor; the same command with the same workdir resumes."""

import argparse
from pathlib import Path

HELP = 'train a compressor; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax train --config=configs/tinystories.py --config.compressor.method=icae --workdir=runs/icae
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration file and the workdir."""
    parser.add_argument('--config', metavar='FILE', required=True, help='Python file that defines get_config()')
    parser.add_argument('--workdir', metavar='DIR', required=True, help='where the run is kept')


def run(args: argparse.Namespace) -> int:
    """Trains; prints the workdir."""
    from pic_jax.cli.settings import load_file, resolve

    config = resolve(load_file(args.config), args.overrides)
    from pic_jax.run import open_run
    from pic_jax.training.loop import train

    train(open_run(config), Path(args.workdir))
    print(args.workdir)
    return 0
