"""`pic-jax train`: trains a compressor; the same command with the same workdir resumes."""

import argparse
import sys
from pathlib import Path

from pic_jax.cli import settings

HELP = 'train a compressor; run again with the same workdir to resume'
EXAMPLE = """example:
  pic-jax train --config=configs/tinystories.py --config.compressor.method=icae --workdir=runs/icae
"""
TAKES_OVERRIDES = True
add_arguments = settings.add_arguments


def run(args: argparse.Namespace) -> int:
    """Trains; prints the workdir, where it leaves report.html."""
    config = settings.resolve(settings.load_file(args.config), args.overrides)
    from pic_jax.evaluation.environment import environment, record_environment
    from pic_jax.evaluation.report import write_report
    from pic_jax.run import open_run
    from pic_jax.training.loop import train

    workdir, here = Path(args.workdir), environment()  # of the code that runs, whatever the commit is later
    train(open_run(config), workdir)
    record_environment(workdir, 'train', here)
    print(write_report(workdir), file=sys.stderr)
    print(args.workdir)
    return 0
