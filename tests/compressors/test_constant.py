"""The control that has no context: k trained vectors, the same for every text."""

import jax
import numpy as np
import pytest

from pic_jax.compressors.constant import ConstantMemory
from pic_jax.errors import ConfigError
from pic_jax.training.objectives import objective_totals

RATIO = 4


@pytest.fixture(scope='module')
def run(model, bare_run):
    decoder, base = model
    compressor = dict(method='constant_memory', ratio=RATIO, context_length=16)
    return bare_run(decoder.config, base, compressor, dict(lm=1.0), (5,), dict(context_length=16, min_context=1))


@pytest.fixture(scope='module')
def trainable(run):
    return run.init_trainable()


def test_it_trains_its_vectors_and_nothing_else(run, trainable):
    assert isinstance(run.compressor, ConstantMemory)
    assert jax.tree.map(lambda leaf: leaf.shape, trainable) == {
        'memory_embeddings': (4, 32), 'special': dict.fromkeys(('ae', 'lm', 'ft'), (32,)),
    }  # fmt: skip
    assert len(np.unique(np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, trainable))))) == 7 * 32


def test_every_context_gets_the_same_memory(run, trainable, compress):
    rng = np.random.default_rng(0)
    one, other = (compress(run.compressor, run.base, trainable, rng.integers(2, 64, (2, 16)), [16, 16]) for _ in 'ab')
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    np.testing.assert_array_equal(one.embeddings, np.stack([trainable['memory_embeddings']] * 2))


@pytest.mark.parametrize('padded', [13, 16])
def test_n_tokens_get_the_first_n_over_ratio_vectors(run, trainable, compress, padded):
    lengths = [13, 12, 9, 8, 1]
    memory = compress(run.compressor, run.base, trainable, np.full((5, padded), 7), lengths)
    assert memory.lengths.tolist() == [4, 3, 3, 2, 1]
    assert memory.valid.tolist() == [[slot < k for slot in range(4)] for k in (4, 3, 3, 2, 1)]
    assert memory.text_start.tolist() == [4, 3, 3, 2, 1]
    for row, k in enumerate((4, 3, 3, 2, 1)):
        np.testing.assert_array_equal(memory.embeddings[row, :k], trainable['memory_embeddings'][:k])
        assert memory.positions[row, :k].tolist() == list(range(k))


def test_gradients_reach_every_vector_that_is_read(run, trainable, ragged_batch):
    batch = ragged_batch(64, 16, [12, 5], {'lm': (6, [0, 0], [6, 6])})

    def loss(trainable):
        return objective_totals(run, trainable, run.base, batch)['lm'].nats.sum()

    grads = jax.jit(jax.grad(loss))(trainable)
    assert (np.abs(grads['memory_embeddings']).max(1) > 1e-4).tolist() == [True, True, True, False]
    assert np.abs(grads['special']['lm']).max() > 1e-4
    assert not np.any(grads['special']['ft'])


def test_a_context_that_needs_more_vectors_is_refused(run, trainable):
    with pytest.raises(ConfigError, match=r'has 17 tokens, expected at most compressor\.context_length=16'):
        run.compressor.compress(run.base, trainable, np.zeros((1, 17), np.int32), np.array([17]))
    with pytest.raises(ConfigError, match='has 17 tokens'):
        run.compressor.check_length(17)
    run.compressor.check_length(16)
