"""What pic's chunks and memory see of each other: three seeds.

    pic-jax ablate --config=configs/sweeps/mask_options.py:words --workdir=runs/masks_words --save
    pic-jax ablate --config=configs/sweeps/mask_options.py --workdir=runs/masks --start_from=runs/masks_words

Every row learns words first, from its own fresh weights, and then to answer.
"""

from pic_jax.config import grid
from pic_jax.recipes import two_stages


def get_config(stage: str = 'answers'):
    return two_stages(stage)


def get_sweep(stage: str = 'answers'):
    return grid(
        {
            'compressor.context_sees': ('causal', 'chunk', 'chunk+memory'),
            'compressor.memory_sees_memory': ('own', 'previous'),
            'seed': (0, 1, 2),
        }
    )
