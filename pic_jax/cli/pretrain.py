"""`pic-jax pretrain`: trains a small target model from scratch on the generated corpus."""

import argparse
from pathlib import Path

HELP = 'train a small target model from scratch; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax pretrain --config=configs/tiny_base.py --workdir=runs/tiny_base
"""
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration file and the workdir."""
    parser.add_argument('--config', metavar='FILE', required=True, help='Python file that defines get_config()')
    parser.add_argument('--workdir', metavar='DIR', required=True, help='where the run is kept')


def run(args: argparse.Namespace) -> int:
    """Trains; prints the folder of the model in HF format."""
    from pic_jax.cli.settings import load_file, resolve
    from pic_jax.config import PretrainConfig

    config = resolve(load_file(args.config), args.overrides, PretrainConfig)
    from pic_jax.training.pretrain import pretrain

    print(pretrain(config, Path(args.workdir)))
    return 0
