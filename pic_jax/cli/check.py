"""`pic-jax check`: whether an exported compressor computes here what it computed where it was exported."""

import argparse
import json
from pathlib import Path

HELP = "compute an exported compressor's golden memory again and compare"
EXAMPLE = """examples:
  pic-jax check pic-4x
  pic-jax check pic-4x --base=models/Llama-3.2-1B --json

Exit codes: 0 it agrees, 1 it does not, 2 bad usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder and where its target is."""
    parser.add_argument('folder', metavar='DIR', help='what `pic-jax export` wrote')
    parser.add_argument('--base', metavar='BASE', default='', help='the frozen model here (default: as in training)')
    parser.add_argument('--json', action='store_true', help='print rows as JSON')


def run(args: argparse.Namespace) -> int:
    """Prints a line per field of the memory."""
    from pic_jax.interop import artefact

    folder = Path(args.folder)
    checks = artefact.check(artefact.load(folder, args.base), folder)
    if args.json:
        print(json.dumps([each._asdict() for each in checks], indent=1))
    else:
        for name, difference, limit in checks:
            print(f'{name:<16} {difference:.3g} (at most {limit:g})  {"ok" if difference <= limit else "DIFFERS"}')
    return 0 if all(each.difference <= each.limit for each in checks) else 1
