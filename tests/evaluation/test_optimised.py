"""The decoder's ceiling, through the model that ships with the package."""

import numpy as np

from pic_jax.config import CompressorConfig, DataConfig, RunConfig
from pic_jax.evaluation import harness
from pic_jax.evaluation.optimised import optimised_memory
from pic_jax.run import open_run


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
