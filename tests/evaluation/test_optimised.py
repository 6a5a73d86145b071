"""The decoder's ceiling, through the model that ships with the package."""

import numpy as np
import pytest

from pic_jax.config import CompressorConfig, CorpusConfig, DataConfig, ObjectiveConfig, RunConfig
from pic_jax.data.examples import packed
from pic_jax.evaluation import harness
from pic_jax.evaluation.optimised import optimised_memory
from pic_jax.run import open_run


@pytest.mark.slow
def test_fitted_vectors_come_close_to_the_full_context():
    compressor = CompressorConfig.preset('icae', ratio=8, context_length=64)
    data = DataConfig(source='generated', size=20, validation=2, test=4, context_length=64, target_length=16)
    run = open_run(RunConfig(base='tiny_base', compressor=compressor, data=data))
    trainable, records = run.init_trainable(), harness.held_out(run, 'test')
    before = harness.score(run, trainable, records, ('icae', 'full_context'), 3)
    fitted = optimised_memory(run, trainable, records, 'lm', 3, steps=150)
    np.testing.assert_array_equal(fitted.k, [8, 8, 8])
    untrained, full = before['icae'].per_token('lm'), before['full_context'].per_token('lm')
    assert fitted.per_token('lm') - full < 0.3 * (untrained - full)


@pytest.mark.slow
def test_a_memory_of_many_questions_is_scored_answer_by_answer():
    compressor = CompressorConfig.preset('icae', ratio=8, context_length=128)
    data = DataConfig(
        source='generated', size=20, validation=2, test=2, context_length=128, answer_length=64,
        questions_per_example=3, random_start=False, corpus=CorpusConfig(facts_per_context=5, words=40, questions=3),
    )  # fmt: skip
    run = open_run(RunConfig(base='tiny_base', compressor=compressor, data=data, objective=ObjectiveConfig(lm=0, ft=1)))
    records = harness.held_out(run, 'test')
    contexts = packed(records, data, run.eos_id)
    assert [len(record.more) for record in contexts] == [2, 2]
    start = optimised_memory(run, run.init_trainable(), contexts, 'ft', 2, steps=1)
    fitted = optimised_memory(run, run.init_trainable(), contexts, 'ft', 2, steps=100)
    assert start.tokens['ft'].tolist() == [len(record.answer) + 1 for record in records]
    assert len(fitted.k) == 6
    assert fitted.exact('ft') > 0.8 > 0.5 > start.exact('ft')
