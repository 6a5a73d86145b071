"""`pic-jax pretrain`: trains a small target model from scratch on the generated corpus."""

import argparse
import sys
from pathlib import Path

from pic_jax.cli import settings

HELP = 'train a small target model from scratch; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax pretrain --config=configs/tiny_base.py:copy --workdir=runs/tiny_base/copy
"""
TAKES_OVERRIDES = True
add_arguments = settings.add_arguments


def run(args: argparse.Namespace) -> int:
    """Trains a stage; prints the folder of the model in HF format, and fails where it misses its bar."""
    from pic_jax.config import PretrainConfig

    config = settings.resolve(settings.load_file(args.config), args.overrides, PretrainConfig)
    from pic_jax.training.pretrain import pretrain

    folder, reached = pretrain(config, Path(args.workdir))
    print(folder)
    if reached is None:
        return 0
    go = reached >= config.bar_value
    print(f'{"go" if go else "no go"}: {config.bar} {reached:.4f}, bar {config.bar_value}', file=sys.stderr)
    return 0 if go else 1
