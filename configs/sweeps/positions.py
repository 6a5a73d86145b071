"""Where pic's memory slots stand, in the encoder and in the decoder: three seeds.

    pic-jax ablate --config=configs/sweeps/positions.py:words --workdir=runs/positions_words --save
    pic-jax ablate --config=configs/sweeps/positions.py --workdir=runs/positions --start_from=runs/positions_words

Every row learns words first, from its own fresh weights, and then to answer.
"""

from pic_jax.recipes import two_stages


def get_config(stage: str = 'answers'):
    return two_stages(stage)


def get_sweep(stage: str = 'answers'):
    return [
        options | {'seed': seed}
        for options in (
            {'compressor.positions': 'end'},
            {'compressor.positions': 'interleaved'},
            {'compressor.positions': 'spread'},
            {'compressor.positions': 'spread', 'compressor.decoder_positions': 'spread'},
            {'compressor.positions': 'spread', 'compressor.position_origin': 'chunk'},
        )
        for seed in (0, 1, 2)
    ]
