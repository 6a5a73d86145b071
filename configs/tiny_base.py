"""The target model that ships with the package, trained from scratch on the generated corpus in five stages.

    pic-jax pretrain --config=configs/tiny_base.py:copy --workdir=runs/base/copy
    pic-jax pretrain --config=configs/tiny_base.py:read --workdir=runs/base/read --config.start=runs/base/copy/model
    pic-jax pretrain --config=configs/tiny_base.py:long --workdir=runs/base/long --config.start=runs/base/read/model
    pic-jax pretrain --config=configs/tiny_base.py:wide --workdir=runs/base/wide --config.start=runs/base/long/model
    pic-jax pretrain --config=configs/tiny_base.py:last --workdir=runs/base/last --config.start=runs/base/wide/model

Each stage needs only the model folder of the one before, takes at most 30 minutes on one core, and fails where it
misses its bar. `copy` repeats random tokens and looks entries up in lists; `read` reads short stories; `long` reads
twice as much and learns to write; `wide` reads more than 1,000 tokens; `last` goes back to copying and answering from
texts of middling length. All but the first also read mixtures of word embeddings in a context's place.
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
    rows.repeat, rows.mixtures, rows.copies = 0.5, 1, 2
    corpus.word_lists = 0.1
    if stage == 'read':
        config.train.steps = 300
        config.bar_value = 0.85
        rows.documents, rows.repeats, rows.notes, rows.row_length = 10, 2, 4, 256
        rows.mixture_slots, rows.mixture_ratios, rows.text_length = 64, (4, 8, 16), 112
        rows.text = 0.3
        corpus.words = 90
        return config
    rows.repeats = 1
    config.optimizer.name = 'muon'
    config.train.eval_every = config.train.checkpoint_every = 50
    if stage == 'long':
        config.train.steps = 600
        config.bar_value = 0.85
        config.optimizer.learning_rate = 1e-3
        rows.documents, rows.notes, rows.row_length = 5, 8, 512
        rows.mixture_slots, rows.mixture_ratios, rows.text_length = 80, (4, 8, 16), 224
        corpus.facts_per_context = corpus.questions = 12
        corpus.words = 170
    elif stage == 'wide':
        config.train.steps = 200
        config.bar_value = 0.8
        config.optimizer.learning_rate = 7e-4
        rows.documents, rows.notes, rows.row_length = 3, 6, 1344
        rows.mixture_slots, rows.mixture_ratios, rows.text_length = 96, (12, 16, 32, 64), 272
        corpus.facts_per_context = corpus.questions = 16
        corpus.words, corpus.word_lists = 700, 0.2
    elif stage == 'last':
        config.train.steps = 150
        config.bar_value = 0.85
        config.optimizer.learning_rate = 5e-4
        rows.documents, rows.repeats, rows.copies, rows.notes, rows.row_length = 3, 3, 4, 6, 896
        rows.mixture_slots, rows.mixture_ratios, rows.text_length = 80, (8, 16, 32), 224
        rows.repeat, rows.copy = 1.0, 0.6
        corpus.facts_per_context = corpus.questions = 12
        corpus.words, corpus.word_lists = 380, 0.15
    else:
        raise ValueError(f'stage {stage} is not valid: expected copy, read, long, wide or last')
    return config
