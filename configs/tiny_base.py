"""The target model that ships with the package: 0.9M parameters, trained from scratch on the generated corpus.

About 25 minutes on 2 cores.
    pic-jax pretrain --config=configs/tiny_base.py --workdir=runs/tiny_base
"""

from pic_jax.config import default_pretrain_config


def get_config():
    return default_pretrain_config()
