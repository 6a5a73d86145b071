"""The compressors that ship with tiny_base: autoencoding of memory vectors in embedding space, at 4x.

    pic-jax train --config=configs/tiny_compressors.py:pic --workdir=runs/pic
    pic-jax train --config=configs/tiny_compressors.py:icae --workdir=runs/icae

`pic_jax.api.load(WORKDIR).save(FOLDER)` makes a finished run the small folder that ships (bfloat16).
"""

from pic_jax.recipes import on_tiny_base


def get_config(method: str = 'pic'):
    config = on_tiny_base(context_length=320)
    config.compressor.method = method
    config.compressor.ratio = 4
    if method == 'pic':
        config.compressor.chunk_size = 16
    config.data.seed = 1
    config.data.size = 4000
    config.data.validation = 60
    config.data.corpus.words = 170
    config.data.corpus.questions = 1
    config.objective.words = 1.0
    config.optimizer.learning_rate = 5e-3
    config.train.steps = 400
    config.train.batch_size = 8
    config.train.eval_every = config.train.checkpoint_every = 50
    return config
