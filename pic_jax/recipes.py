"""Settings that the demo, the experiments and the sweeps on the bundled model share."""

from typing import Any

from pic_jax.config import LINEARS, default_config


def on_tiny_base(context_length: int) -> Any:
    """A ConfigDict for compressors of the bundled model on generated text: no objective yet, everything adapted.

    Args:
      context_length: the longest context, in tokens.
    """
    config = default_config()
    config.base = 'tiny_base'
    config.compressor.projector = 'linear'
    config.compressor.lora.rank = 32
    config.compressor.lora.targets = LINEARS
    config.compressor.context_length = config.data.context_length = context_length
    config.data.source = 'generated'
    config.data.min_context = 64
    config.data.random_start = False
    config.objective.lm = 0.0
    config.optimizer.name = 'muon'
    return config


def ask_all(config: Any, facts: int, answer_length: int) -> None:
    """Documents tell that many facts at the most and are asked about each, in at most `answer_length` tokens in all."""
    config.data.corpus.facts_per_context = config.data.corpus.questions = config.data.questions_per_example = facts
    config.data.answer_length = answer_length


def two_stages(stage: str) -> Any:
    """The recipe of the sweeps, about three minutes of one core a run: `words`, then `answers` from its weights.

    Documents tell 8 facts (7 where the attribute has no more values) in about 140 tokens; `words` brings memory vectors
    near mixtures of their own words, `answers` asks all questions on one memory. 48 validation documents are scored.
    """
    config = on_tiny_base(context_length=192)
    config.compressor.ratio = 4
    config.compressor.chunk_size = 16
    config.data.seed = 3
    config.data.size = 1500
    config.data.validation = 48
    config.data.test = 48
    config.data.corpus.words = 90
    config.train.batch_size = 8
    config.optimizer.warmup_steps = 10
    if stage == 'words':
        config.data.corpus.questions = 1
        config.objective.words = 1.0
        config.optimizer.learning_rate = 5e-3
        config.train.steps = 120
    elif stage == 'answers':
        ask_all(config, facts=8, answer_length=150)
        config.objective.ft = 1.0
        config.optimizer.learning_rate = 1e-3
        config.train.steps = 80
    else:
        raise ValueError(f'stage {stage} is not valid: expected words or answers')
    config.data.corpus.facts_per_context = 8
    config.train.eval_every = config.train.steps
    return config
