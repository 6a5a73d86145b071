"""How large an adapter pic needs: three seeds.

    pic-jax ablate --config=configs/sweeps/lora_rank.py:words --workdir=runs/lora_rank_words --save
    pic-jax ablate --config=configs/sweeps/lora_rank.py --workdir=runs/lora_rank --start_from=runs/lora_rank_words

The scale is alpha / rank and alpha stays the same, as in the LoRA paper (arXiv 2106.09685, section 4.1): a larger rank
has a smaller scale. Every row learns words first, from its own fresh weights, and then to answer.
"""

from pic_jax.config import grid
from pic_jax.recipes import two_stages


def get_config(stage: str = 'answers'):
    return two_stages(stage)


def get_sweep(stage: str = 'answers'):
    return grid({'compressor.lora.rank': (4, 8, 16, 32, 64), 'seed': (0, 1, 2)})
