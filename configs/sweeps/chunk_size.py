"""Which chunk size, at which ratio: pic on questions through the bundled model, three seeds.

    pic-jax ablate --config=configs/sweeps/chunk_size.py:words --workdir=runs/chunk_size_words --save
    pic-jax ablate --config=configs/sweeps/chunk_size.py --workdir=runs/chunk_size --start_from=runs/chunk_size_words

Every row learns words first, from its own fresh weights, and then to answer.
"""

from pic_jax.config import grid
from pic_jax.recipes import two_stages


def get_config(stage: str = 'answers'):
    return two_stages(stage)


def get_sweep(stage: str = 'answers'):
    return grid({'compressor.chunk_size': (8, 16, 32, 64, 192), 'compressor.ratio': (2, 4, 8), 'seed': (0, 1, 2)})
