"""A training without an end that saves and evaluates often: what benchmarks/long_run.py watches.

JAX_PLATFORMS=cpu pic-jax train --config=benchmarks/long_training.py --workdir=runs/long_run
"""


def get_config():
    """PIC on 64 tokens: a record of every 10th step, an evaluation after every 250th, a checkpoint of every 2,000th.

    That is a checkpoint in about two and a half minutes. tensorstore keeps each of its zstd contexts (3.5 MiB) until
    nobody has used it for a minute: with saves in shorter distances memory that is in use hangs on how many of them met
    by chance. It also loses some 33 KB at each save (675 bytes per `KvStore.Spec.to_json` and 660 per
    `experimental_collect_matching_metrics`, 0.1.76 to 0.1.86; Orbax calls both for every array): at one in five
    seconds that alone would be twice the growth that benchmarks/long_run.py allows.
    """
    from pic_jax.recipes import on_tiny_base

    config = on_tiny_base(context_length=64)
    config.compressor.method = 'pic'
    config.compressor.ratio = 4
    config.compressor.chunk_size = 16
    config.compressor.lora.rank = 4
    config.objective.lm = config.objective.ae = 1.0
    config.data.size, config.data.validation, config.data.test = 400, 16, 4
    config.data.corpus.words = 90
    config.data.target_length = config.data.min_context = 16
    config.data.random_start = True
    config.optimizer.name = 'adamw'
    config.optimizer.warmup_steps = 10
    config.train.steps = 1_000_000
    config.train.batch_size = 4
    config.train.eval_examples = 8
    config.train.log_every = 10
    config.train.eval_every = 250
    config.train.checkpoint_every = 2000
    return config
