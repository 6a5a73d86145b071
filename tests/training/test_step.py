"""One step: what it differentiates, how it adds up microbatches, and what it does with numbers that are not finite."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pic_jax.config import ObjectiveConfig, OptimizerConfig, TrainConfig
from pic_jax.models import cross_entropy
from pic_jax.models.decoder import Decoder
from pic_jax.training.objectives import Loss, compressor_loss, objective_totals
from pic_jax.training.step import accumulate, init_state, make_train_step

# Every dimension is a number of its own, so that a shape says what it belongs to.
DISTINCT = dict(vocab_size=101, hidden_size=40, intermediate_size=56, num_attention_heads=3, num_key_value_heads=1)
OBJECTIVE = dict(ae=0.5, lm=1.0, ft=2.0, distill=0.25)
TARGETS = {
    'ae': (9, [0, 0, 0, 0], [9, 5, 3, 1]),
    'lm': (5, [0, 0, 0, 0], [5, 5, 2, 4]),
    'ft': (7, [3, 1, 2, 2], [7, 4, 3, 6]),
}
OPTIMIZER = OptimizerConfig(schedule='constant', warmup_steps=1, learning_rate=1e-2)


@pytest.fixture(scope='module')
def make_run(tiny_config, random_params, bare_run):
    config = tiny_config(**DISTINCT)
    base = random_params(Decoder(config))
    options = dict(method='pic', ratio=2, chunk_size=4, context_length=8)
    return functools.partial(bare_run, config, base, options, OBJECTIVE, prefix=(0, 3))


@pytest.fixture(scope='module')
def batch(ragged_batch):
    return ragged_batch(101, 8, [8, 4, 2, 1], TARGETS)


def equations(jaxpr):
    """Every equation of a jaxpr, also inside pjit, scan, remat, cond and custom derivatives."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def matrix_products(jaxpr) -> set[tuple[int, ...]]:
    """Output shapes of all matrix products and scatters, dimensions in order (a gradient may be transposed)."""
    found = set()
    for equation in equations(jaxpr):
        if equation.primitive.name in ('dot_general', 'scatter-add'):
            found |= {tuple(sorted(out.aval.shape)) for out in equation.outvars}
    return found


def base_matrices(run) -> set[tuple[int, ...]]:
    """Shapes of the base's matrices, one layer of the stacked ones."""
    shapes = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(run.base):
        shape = leaf.shape[1:] if path[0].key == 'layers' else leaf.shape
        shapes |= {tuple(sorted(shape))} if len(shape) == 2 else set()
    return shapes


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_no_gradient_of_the_base_is_computed(make_run, batch, remat):
    run = make_run(remat=remat)
    loss, wanted = compressor_loss(run), base_matrices(run)
    assert wanted == {(40, 101), (24, 40), (8, 40), (40, 56)}

    def products(loss, trainable, frozen):
        state = init_state(trainable, OPTIMIZER, 3)
        step = make_train_step(loss, OPTIMIZER, TrainConfig(steps=3, batch_size=4, microbatches=2))
        return matrix_products(jax.make_jaxpr(step)(state, frozen, batch).jaxpr)

    trainable = run.init_trainable()
    assert not products(loss, trainable, run.base) & wanted
    unfrozen = Loss(loss.weights, lambda both, _, part: loss.totals(both['new'], both['base'], part), loss.counts)
    assert products(unfrozen, {'new': trainable, 'base': run.base}, None) >= wanted  # the walk does see them


def test_no_array_of_all_logits_is_made(tiny_config, random_params, bare_run, ragged_batch, monkeypatch):
    monkeypatch.setattr(cross_entropy, 'MOST', 26)
    cross_entropy.words_at_a_time.cache_clear()
    config = tiny_config(**DISTINCT | dict(vocab_size=104))
    base, options = random_params(Decoder(config)), dict(method='pic', ratio=2, chunk_size=4, context_length=8)
    batch = ragged_batch(104, 8, [8, 4, 2, 1], TARGETS)

    def logits(objective):
        """Shapes of three dimensions or more that end in the vocabulary's, in a program of one step."""
        run = bare_run(config, base, options, objective, prefix=(0, 3))
        step = make_train_step(compressor_loss(run), OPTIMIZER, TrainConfig(steps=3, batch_size=4, microbatches=2))
        text = step.lower(init_state(run.init_trainable(), OPTIMIZER, 3), base, batch).as_text()
        # The matrix itself is [D, ways, V].
        return {found for found in re.findall(r'tensor<((?:\d+x){3,})f32>', text) if found.endswith('x104x')} - {
            '40x1x104x'
        }

    assert logits(dict(ae=1.0, lm=1.0, ft=1.0)) == set()
    assert logits(dict(lm=1.0, distill=1.0))  # the divergence of two whole distributions: the walk does see them
    cross_entropy.words_at_a_time.cache_clear()


@pytest.fixture(scope='module')
def trained(make_run, batch):
    """Three real updates and two attempts at impossible ones, with one compiled step."""
    run = make_run()
    step = make_train_step(compressor_loss(run), OPTIMIZER, TrainConfig(steps=3, batch_size=4, microbatches=2))
    before = jax.tree.map(lambda x: np.array(x).tobytes(), run.base)
    state, losses = init_state(run.init_trainable(), OPTIMIZER, 3), []
    start = jax.tree.map(np.array, state)
    for _ in range(3):
        state, values = step(state, run.base, batch)
        losses.append(jax.tree.map(float, values))
    good = jax.tree.map(np.array, state)
    poisoned = jax.tree.map(jnp.asarray, run.base)
    poisoned['norm']['weight'] = poisoned['norm']['weight'] * jnp.inf
    kept, bad = step(state, poisoned, batch)
    return run, before, start, good, losses, jax.tree.map(np.array, kept), jax.tree.map(float, bad)


def test_the_base_keeps_its_bytes_and_everything_trained_moves(trained):
    run, before, start, good, losses, *_ = trained
    assert jax.tree.map(lambda x: np.array(x).tobytes(), run.base) == before
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start.trainable, good.trainable)
    assert all(jax.tree.leaves(moved)), moved
    assert losses[2]['loss'] < losses[0]['loss']
    assert int(good.step) == 3
    assert [values['finite'] for values in losses] == [1, 1, 1]
    assert [values['learning_rate'] for values in losses] == pytest.approx([0, 1e-2, 1e-2])


def test_an_update_that_is_not_finite_is_discarded(trained):
    *_, good, _, kept, bad = trained
    assert bad['finite'] == 0
    assert not np.isfinite(bad['loss'])
    for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(kept), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope='module')
def rows(make_run, batch):
    """Totals of every row at the start of training, by objective."""
    run = make_run()
    totals = jax.jit(lambda trainable, base, batch: objective_totals(run, trainable, base, batch))
    return totals(run.init_trainable(), run.base, batch)


def test_microbatches_add_up_to_the_batch(make_run, batch, rows):
    run = make_run()
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, objective=ObjectiveConfig(lm=0.0, ft=2.0)))
    loss = compressor_loss(run)

    @functools.partial(jax.jit, static_argnums=3)
    def added(trainable, base, batch, microbatches):
        return accumulate(loss, trainable, base, batch, microbatches)

    whole, parts = (added(run.init_trainable(), run.base, batch, count) for count in (1, 4))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    nats, tokens, grads = whole
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 0.01
    assert {name: int(count) for name, count in tokens.items()} == {'ft': 12}
    assert float(nats['ft']) == pytest.approx(float(rows['ft'].nats.sum()), rel=1e-5)
    mean_of_means = float(np.mean(rows['ft'].nats / rows['ft'].tokens))
    assert abs(mean_of_means - float(nats['ft'] / tokens['ft'])) > 1e-3  # the two rules can be told apart


def test_only_targets_count(rows):
    assert {name: rows[name].tokens.tolist() for name in rows} == {
        'ae': [9, 5, 3, 1], 'lm': [5, 5, 2, 4], 'ft': [4, 3, 1, 4], 'distill': [9, 8, 3, 8],
    }  # fmt: skip


def test_the_loss_is_the_weighted_sum_over_objectives_of_nats_per_token(trained, rows):
    losses = trained[4]
    per_token = {name: float(rows[name].nats.sum() / rows[name].tokens.sum()) for name in rows}
    assert losses[0]['loss'] == pytest.approx(sum(OBJECTIVE[name] * per_token[name] for name in OBJECTIVE), rel=1e-5)
    assert {name: losses[0][f'{name}_nats'] for name in OBJECTIVE} == pytest.approx(per_token, rel=1e-5)
    assert {name: losses[0][f'{name}_tokens'] for name in OBJECTIVE} == {'ae': 18, 'lm': 16, 'ft': 12, 'distill': 28}
