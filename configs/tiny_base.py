"""The target model that ships with the package, trained from scratch on the generated corpus in four stages.

    pic-jax pretrain --config=configs/tiny_base.py:copy --workdir=runs/base/copy
    pic-jax pretrain --config=configs/tiny_base.py:read --workdir=runs/base/read --config.start=runs/base/copy/model
    pic-jax pretrain --config=configs/tiny_base.py:long --workdir=runs/base/long --config.start=runs/base/read/model
    pic-jax pretrain --config=configs/tiny_base.py:write --workdir=runs/base/write --config.start=runs/base/long/model

Each stage needs only the model folder of the one before, takes at most 15 minutes on one core, and fails where it
misses its bar. `copy` repeats random tokens and looks entries up in lists; `read` reads short stories; `long` reads
twice as much; `write` gives the text itself its full weight. The last three also read mixtures of word embeddings in a
context's place.
"""

from pic_jax.config import default_pretrain_config


def get_config(stage: str = 'copy'):
    config = default_pretrain_config()
    config.bar = 'answer_exact'
    config.train.eval_every = config.train.checkpoint_every = 25
    rows, corpus = config.rows, config.corpus
    rows.copy_length, rows.copy_period = 96, 48
    rows.answer, rows.copy = 2.0, 0.3
    corpus.facts_per_context = corpus.questions = 6
    if stage == 'copy':
        config.train.steps = 100
        config.optimizer.schedule = 'constant'
        config.bar_value = 0.9
        rows.documents, rows.repeats, rows.copies, rows.row_length = 16, 1, 3, 208
        rows.text, rows.repeat = 0.1, 0.3
        corpus.words, corpus.ledgers = 1, 1.0
        return config
    rows.text, rows.repeat, rows.copies = 0.3, 0.5, 2
    corpus.word_lists = 0.1
    if stage == 'read':
        config.train.steps = 400
        config.bar_value = 0.6
        rows.documents, rows.repeats, rows.mixtures, rows.row_length = 10, 2, 4, 256
        rows.mixture_slots, rows.text_length = 96, 112
        corpus.words = 90
        return config
    if stage not in ('long', 'write'):
        raise ValueError(f'stage {stage} is not valid: expected copy, read, long or write')
    config.optimizer.name = 'muon'
    rows.repeats, rows.mixture_slots, rows.mixture_ratios = 1, 80, (4, 8, 16)
    corpus.facts_per_context, corpus.words = 12, 170
    if stage == 'long':
        config.train.steps = 240
        config.bar_value = 0.65
        config.optimizer.learning_rate = 7e-4
        rows.documents, rows.mixtures, rows.row_length, rows.text_length = 6, 3, 512, 224
        rows.text = 0.5
        corpus.questions = 12
    else:
        config.train.steps = 400
        config.bar_value = 0.7
        config.optimizer.learning_rate = 1.5e-3
        rows.documents, rows.mixtures, rows.row_length, rows.text_length = 7, 2, 384, 112
        rows.text, rows.copies = 1.0, 1
    return config
