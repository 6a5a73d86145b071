"""What holds for every compressor: padding is nothing, all weights train, files keep them, and 30 steps teach it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import PRESETS, LoraConfig, OptimizerConfig, RunConfig, TrainConfig
from pic_jax.training.objectives import compressor_loss, objective_totals
from pic_jax.training.step import init_state, make_train_step
from pic_jax.training.weights import read_weights, write_weights

OPTIONS = {'pic': dict(chunk_size=4), 'icformer': dict(projector='linear'), 'mean_pool': dict(projector='linear')}
TARGETS = {'lm': (6, [0, 0, 0, 0], [6, 4, 6, 5])}


# Files of their own say more about these.
SLOW = ('icae', 'epl', 'pic', 'kv500x', 'icformer')


@pytest.fixture(
    scope='module', params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PRESETS]
)
def method(request):
    return request.param


@pytest.fixture(scope='module')
def run(method, model, bare_run):
    decoder, base = model
    settings = dict(method=method, ratio=2, context_length=16, lora=LoraConfig(rank=4)) | OPTIONS.get(method, {})
    return bare_run(decoder.config, base, settings, dict(lm=1.0), (5,), dict(context_length=16, min_context=1))


@pytest.fixture(scope='module')
def trained(run):
    """Weights that have left their start."""

    def moved(path, leaf):
        return leaf + 0.1 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)

    return jax.tree_util.tree_map_with_path(moved, run.init_trainable())


@pytest.mark.parametrize('length', [11, 1])
def test_padding_and_neighbours_change_nothing(run, trained, compress, length):
    tokens = np.random.default_rng(0).integers(2, 64, (3, 16))
    lengths = [16, length, 9]
    memory = compress(run.compressor, run.base, trained, tokens, lengths)
    alone = compress(run.compressor, run.base, trained, tokens[1:2, :length], [length])
    k = -(-length // 2)
    assert memory.lengths.tolist() == [8, k, 5]
    assert alone.lengths.tolist() == [k]
    for name, array in memory.vectors.items():
        np.testing.assert_allclose(array[1, :k], alone.vectors[name][0, :k], rtol=1e-5, atol=1e-5)
    assert memory.positions[1, :k].tolist() == alone.positions[0, :k].tolist()
    assert int(memory.text_start[1]) == int(alone.text_start[0])


def test_every_weight_is_trained(run, trained, ragged_batch):
    batch = ragged_batch(64, 16, [16, 9, 12, 16], TARGETS)
    loss = lambda weights: objective_totals(run, weights, run.base, batch)['lm'].nats.sum()
    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(trained)):
        grad = np.asarray(grad)
        is_read = path[0].key != 'lora' or path[-2].key in ('k_proj', 'v_proj')
        if run.config.compressor.method == 'kv500x' and not is_read:  # what the last layer gives out
            assert not grad[-1].any()
            grad = grad[:-1]
        unused = path[0].key == 'special' and path[1].key != 'lm'
        assert (np.abs(grad).max() > 1e-7) != unused, jax.tree_util.keystr(path)


def test_a_file_keeps_it(run, trained, compress, tmp_path):
    config = dataclasses.replace(RunConfig(), compressor=run.config.compressor)
    write_weights(tmp_path / 'saved', config, trained)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), trained)
    again = read_weights(tmp_path / 'saved', run.init_trainable())
    tokens = np.random.default_rng(0).integers(2, 64, (2, 16))
    expected = compress(run.compressor, run.base, rounded, tokens, [16, 7]).vectors
    for name, array in compress(run.compressor, run.base, again, tokens, [16, 7]).vectors.items():
        np.testing.assert_array_equal(array, expected[name])


def test_thirty_steps_overfit(method, run, ragged_batch):
    """Four contexts and what follows them, from 4 nats a token (a guess among 64) to below 2.5."""
    batch = ragged_batch(64, 16, [16, 9, 12, 16], TARGETS)
    train, optimizer = TrainConfig(steps=30), OptimizerConfig(name='muon', learning_rate=2e-2, warmup_steps=3)
    step = make_train_step(compressor_loss(run), optimizer, train)
    state = init_state(run.init_trainable(), optimizer, train.steps)
    losses = []
    for _ in range(train.steps):
        state, metrics = step(state, run.base, batch)
        losses.append(float(metrics['loss']))
    assert losses[0] > 4
    # Constant vectors can only learn what the four texts have in common.
    assert losses[-1] > 3 if method == 'constant_memory' else losses[-1] < 2.5, losses
