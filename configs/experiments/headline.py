"""The headline experiment: which compressor carries answers best at 4x, 16x and 64x (benchmarks/headline.py runs it).

`--config=configs/experiments/headline.py:STAGE,RATIO`: STAGE `words` and `pretrain` (autoencoding, first in embedding
space, then in tokens with continuation; both at 4x) or `qa` (answers, from the compressor that `start` names). The
ratio doubles from one `qa` stage to the next: at 16x and more, nothing was learned from scratch.
"""

from pic_jax.recipes import ask_all, on_tiny_base

SLOTS = 4  # memory vectors in a chunk of pic, at every ratio
STEPS = {4: 80, 8: 80, 16: 160, 32: 40, 64: 80}


def get_config(argument: str = 'qa,4'):
    stage, ratio = argument.split(',')
    ratio = int(ratio)
    far = ratio > 16  # more than 1,000 tokens of context: at 64x, 12 facts in 17 vectors
    config = on_tiny_base(context_length=1280 if far else 320)
    config.compressor.method = 'pic'
    config.compressor.ratio = ratio
    config.compressor.chunk_size = SLOTS * ratio
    config.data.seed = 2
    config.data.size = 400 if far else 3000
    config.data.validation = 12
    config.data.test = 20
    config.data.corpus.words = 700 if far else 170
    config.data.target_length = 48
    ask_all(config, facts=12, answer_length=224)
    config.train.batch_size = config.train.microbatches = 2 if far else 8
    config.train.eval_examples = 48
    config.optimizer.warmup_steps = 10
    if stage == 'words':
        config.objective.words = 1.0
        config.optimizer.learning_rate = 5e-3
        config.train.steps = 160
        config.data.corpus.questions = 1
    elif stage == 'pretrain':
        config.objective.ae = config.objective.lm = 1.0
        config.train.steps = 20
        config.data.corpus.questions = 1
    elif stage == 'qa':
        config.objective.ft = 1.0
        config.train.steps = STEPS[ratio]
    else:
        raise ValueError(f'stage {stage} is not valid: expected words, pretrain or qa')
    return config
