"""`pic-jax pretrain`: trains a small target model from scratch on the generated corpus."""

import argparse
from pathlib import Path

from pic_jax.cli import settings

HELP = 'train a small target model from scratch; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax pretrain --config=configs/tiny_base.py --workdir=runs/tiny_base
"""
TAKES_OVERRIDES = True
add_arguments = settings.add_arguments


def run(args: argparse.Namespace) -> int:
    """Trains; prints the folder of the model in HF format."""
    from pic_jax.config import PretrainConfig

    config = settings.resolve(settings.load_file(args.config), args.overrides, PretrainConfig)
    from pic_jax.training.pretrain import pretrain

    print(pretrain(config, Path(args.workdir)))
    return 0
