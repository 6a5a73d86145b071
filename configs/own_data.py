"""A starting point for your own model and text: PIC at 16x, 512 tokens in 32 vectors, bfloat16.

    pic-jax train --config=configs/own_data.py --workdir=runs/mine \\
        --config.base=path/to/hf-llama --config.data.source=notes.jsonl
"""

from pic_jax.config import default_config


def get_config():
    config = default_config()
    config.dtype = 'bfloat16'
    config.remat = 'full'
    config.data.source = 'notes.jsonl'
    config.data.validation = 50
    config.data.test = 50
    config.data.context_length = 512
    config.data.target_length = 128
    config.data.min_context = 64
    config.compressor.ratio = 16
    config.compressor.chunk_size = 128
    config.compressor.context_length = 512
    config.compressor.lora.rank = 64
    config.objective.ae = 0.5
    config.objective.lm = 1.0
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 300
    config.optimizer.schedule = 'constant'
    config.train.steps = 10000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    return config
