"""`pic-jax bench`: starts one of the scripts in benchmarks/."""

import argparse
import runpy
import sys
from pathlib import Path

HELP = 'run a benchmark of the repository'
EXAMPLE = """examples:
  pic-jax bench flops
  pic-jax bench compression_time --json
"""
FOLDER = Path(__file__).parents[2] / 'benchmarks'
NAMES = ('attention_memory', 'backends', 'compression_time', 'flops', 'remat', 'scaling', 'train_step')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's name and what follows it."""
    parser.add_argument('name', choices=NAMES)
    parser.add_argument('rest', nargs=argparse.REMAINDER, metavar='...', help="the benchmark's own arguments")


def run(args: argparse.Namespace) -> int:
    """Runs the script in this process.

    Raises:
      PicJaxError: the package was installed without the repository around it.
    """
    from pic_jax.errors import PicJaxError

    script = FOLDER / f'{args.name}.py'
    if not script.is_file():
        raise PicJaxError(f'{script} does not exist: benchmarks need a clone of the repository, installed with pip -e')
    sys.path.insert(0, str(FOLDER))  # as `python benchmarks/NAME.py` does
    sys.argv = [str(script), *args.rest]
    runpy.run_path(str(script), run_name='__main__')
    return 0
