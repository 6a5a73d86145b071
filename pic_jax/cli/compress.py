"""`pic-jax compress`: texts become a file of stored contexts."""

import argparse
import sys
from pathlib import Path

from pic_jax.cli import settings

HELP = 'compress texts into a file of stored contexts'
EXAMPLE = """examples:
  pic-jax compress --workdir=runs/pic notes.txt more.txt --out contexts.safetensors
  pic-jax compress --workdir=runs/pic documents.jsonl --out contexts.safetensors
  cat notes.txt | pic-jax compress --workdir=runs/pic - --out contexts.safetensors
  pic-jax compress --workdir=runs/nested notes.txt --ratio=16 --out contexts.safetensors
"""
_BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the compressor, the inputs and the output."""
    parser.add_argument('--workdir', metavar='DIR', required=True, help='folder of the trained compressor')
    settings.add_reading(parser)
    parser.add_argument(
        'files', metavar='FILE', nargs='+', help='.jsonl: one context a line; anything else: one context; -: stdin'
    )
    parser.add_argument('--out', metavar='OUT', required=True, help='the new .safetensors file')
    ratio_help = 'one of those in compressor.ratios (default: the finest)'
    parser.add_argument('--ratio', type=int, metavar='R', help=ratio_help)
    parser.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')


def run(args: argparse.Namespace) -> int:
    """Compresses everything, then writes OUT at once; prints its path."""
    from pic_jax.data.readers import read_contexts
    from pic_jax.errors import ConfigError

    out = Path(args.out)
    if out.exists() and not args.overwrite:
        raise ConfigError(f'--out={out} exists: expected a new file name, or --overwrite')
    if not out.parent.is_dir():
        raise ConfigError(f'--out={out}: the folder {out.parent} does not exist')
    if args.ratio is not None and args.ratio < 1:
        raise ConfigError(f'--ratio={args.ratio} is not valid: expected a positive number')
    named = [pair for file in args.files for pair in read_contexts(file)]

    from pic_jax.interop import context_files, contexts

    trained = settings.load(args)
    parts = []
    for first in range(0, len(named), _BATCH):
        names, texts = zip(*named[first : first + _BATCH], strict=True)
        parts.append(trained.store(texts, names, args.ratio))
        print(f'{first + len(names)} of {len(named)} contexts', file=sys.stderr)
    whole = contexts.merge(parts)
    parts.clear()  # as many bytes again
    context_files.write(out, whole)
    print(out)
    return 0
