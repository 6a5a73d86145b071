"""The compressors that ship with tiny_base: autoencoding of memory vectors in embedding space, at 4x.

    pic-jax train --config=configs/tiny_compressors.py:pic --workdir=runs/pic
    pic-jax train --config=configs/tiny_compressors.py:icae --workdir=runs/icae

`pic_jax.api.load(WORKDIR).save(FOLDER)` makes a finished run the small folder that ships (bfloat16).
"""

from pic_jax.config import default_config


def get_config(method: str = 'pic'):
    config = default_config()
    config.base = 'tiny_base'
    config.compressor.method = method
    config.compressor.ratio = 4
    if method == 'pic':
        config.compressor.chunk_size = 16
    config.compressor.projector = 'linear'
    config.compressor.lora.rank = 32
    config.compressor.lora.targets = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    config.data.source = 'generated'
    config.data.seed = 1
    config.data.size = 4000
    config.data.validation = 60
    config.data.context_length = config.compressor.context_length = 320
    config.data.min_context = 64
    config.data.random_start = False
    config.data.corpus.words = 170
    config.data.corpus.questions = 1
    config.objective.lm = 0.0
    config.objective.words = 1.0
    config.optimizer.name = 'muon'
    config.optimizer.learning_rate = 5e-3
    config.train.steps = 400
    config.train.batch_size = 8
    config.train.eval_every = config.train.checkpoint_every = 50
    return config
