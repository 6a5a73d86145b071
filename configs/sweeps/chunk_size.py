"""Which chunk size, at which ratio: pic on questions through the bundled model, three seeds.

    pic-jax ablate --config=configs/sweeps/chunk_size.py --workdir=runs/chunk_size

Every row goes on from the compressor that ships (4x, chunks of 16), for about two minutes of a core.
"""

from pic_jax.cli.demo import demo_config
from pic_jax.config import grid


def get_config():
    config = demo_config()
    config.train.steps = 60
    config.train.eval_every = 20
    return config


def get_sweep():
    return grid({'compressor.chunk_size': (8, 16, 32, 64, 128), 'compressor.ratio': (2, 4, 8), 'seed': (0, 1, 2)})
