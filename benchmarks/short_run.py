"""A training of seconds on the bundled model that saves all the time: what benchmarks/faults.py and tests/faults kill.

JAX_PLATFORMS=cpu pic-jax train --config=benchmarks/short_run.py --workdir=runs/short
"""


def get_config():
    """80 steps of PIC on 24 tokens, a record of each and a checkpoint after every fourth."""
    from pic_jax.recipes import on_tiny_base

    config = on_tiny_base(context_length=24)
    config.compressor.method = 'pic'
    config.compressor.ratio = 4
    config.compressor.chunk_size = 8
    config.compressor.lora.rank = 4
    config.objective.lm = 1.0
    config.data.size, config.data.validation, config.data.test = 24, 4, 4
    config.data.corpus.words = 60
    config.data.target_length = config.data.min_context = 8
    config.optimizer.name = 'adamw'
    config.optimizer.warmup_steps = 2
    config.train.steps = 80
    config.train.batch_size = config.train.eval_examples = 4
    config.train.log_every = 1
    config.train.eval_every = 20
    config.train.checkpoint_every = 4
    return config
