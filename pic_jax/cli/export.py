"""`pic-jax export`: a trained compressor as a folder to publish."""

import argparse
from pathlib import Path

from pic_jax.cli import settings

HELP = 'write a trained compressor as a folder to publish: PEFT adapter, tensors, golden memory, model card'
EXAMPLE = """examples:
  pic-jax export --workdir=runs/pic --out=pic-4x
  pic-jax export --workdir=runs/pic --out=pic-4x --target=meta-llama/Llama-3.2-1B --step=best
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the compressor and where to write."""
    parser.add_argument('--workdir', metavar='DIR', required=True, help='folder of the trained compressor')
    settings.add_reading(parser)
    parser.add_argument('--out', metavar='OUT', required=True, help='the new folder')
    parser.add_argument(
        '--target', metavar='NAME', default='', help="the frozen model's published name (default: the run's)"
    )
    parser.add_argument('--merged', action='store_true', help='also write target and adapter in one, as OUT/merged')
    parser.add_argument(
        '--remote_code',
        action='store_true',
        help="also write the PyTorch runtime, for transformers' AutoModel with trust_remote_code=True",
    )


def run(args: argparse.Namespace) -> int:
    """Writes OUT; prints its path."""
    from pic_jax.errors import ConfigError
    from pic_jax.interop import artefact

    if Path(args.out).exists():
        raise ConfigError(f'--out={args.out} exists: expected a new folder')
    artefact.export(settings.load(args), Path(args.out), args.target, args.merged, args.remote_code)
    print(args.out)
    return 0
