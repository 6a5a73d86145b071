"""`pic-jax plot`: loss curves of runs, and the attention mask of the first with its chunks."""

import argparse
import sys
from pathlib import Path

from pic_jax.config import RunConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.masks import make_layout
from pic_jax.training.workdir import read_config

HELP = 'draw loss curves and the attention mask of one or more workdirs'
EXAMPLE = """examples:
  pic-jax plot runs/pic
  pic-jax plot runs/icae runs/pic --out comparison
"""
_MASK_TOKENS = 96


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdirs and the output folder."""
    parser.add_argument('workdirs', metavar='WORKDIR', nargs='+', help='folder of a run')
    parser.add_argument('--out', metavar='DIR', help='folder of the pictures (default: plots/ in the first WORKDIR)')


def run(args: argparse.Namespace) -> int:
    """Draws both pictures and prints their paths; returns the exit code.

    Raises:
      ConfigError: a workdir is given twice.
      PicJaxError: a file of a workdir is missing or broken, or a picture cannot be written.
    """
    from pic_jax.evaluation import plots  # matplotlib is slow to import; every verb's parser imports this module

    workdirs = [Path(workdir) for workdir in args.workdirs]
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise ConfigError(f'WORKDIR={" ".join(args.workdirs)} is not valid: expected each folder once')
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = args.workdirs
    runs = {name: plots.read_metrics(workdir / 'metrics.jsonl') for name, workdir in zip(names, workdirs, strict=True)}
    config = read_config(workdirs[0])
    out = Path(args.out) if args.out else workdirs[0] / 'plots'
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PicJaxError(f'{out}: cannot be made a folder: {error.strerror}') from error
    print(f'drawing {len(runs)} run(s) into {out}', file=sys.stderr)
    names = tuple(f'{name}_nats' for name in config.objective.names)
    plots.plot_curves(out / 'loss.png', runs, names)
    print(out / 'loss.png')
    draw_mask(out / 'mask.png', config)
    print(out / 'mask.png')
    return 0


def mask_tokens(config: RunConfig) -> int:
    """How many context tokens the picture shows: about 96 in whole chunks, at least two chunks, one window."""
    chunk = config.compressor.chunk_size or 1
    whole_chunks = max(_MASK_TOKENS // chunk, 2) * chunk
    longest = min(config.data.context_length, config.compressor.window or config.data.context_length)
    return min(whole_chunks, longest)


def draw_mask(path: Path, config: RunConfig) -> None:
    """Draws the encoder's mask for one window of `mask_tokens(config)` tokens."""
    from pic_jax.evaluation import plots

    compressor = config.compressor
    layout = make_layout(compressor, mask_tokens(config))
    title = f'{compressor.method}, ratio {compressor.ratio}: {layout.num_tokens} tokens to {layout.num_slots} vectors'
    if compressor.chunk_size:
        title += (
            f'\nchunk size {compressor.chunk_size}, context sees {compressor.context_sees}, '
            f'memory sees {compressor.memory_sees_memory}'
        )
    plots.plot_mask(path, layout.dense_mask(), layout.kind, layout.chunk, title)
