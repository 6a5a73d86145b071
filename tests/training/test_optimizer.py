"""Learning-rate schedules and clipping, by their numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pic_jax.config import OptimizerConfig
from pic_jax.training.optimizer import MUON_RMS, learning_rate, make_optimizer


def rates(steps: int, at, **options) -> list[float]:
    schedule = learning_rate(OptimizerConfig(learning_rate=0.5, **options), steps)
    return [float(schedule(step)) for step in at]


def test_warm_up_is_linear_from_zero_and_constant_stays():
    found = rates(1000, [0, 1, 5, 10, 11, 500, 5000], schedule='constant', warmup_steps=10)
    assert found == pytest.approx([0, 0.05, 0.25, 0.5, 0.5, 0.5, 0.5])


def test_cosine_ends_at_zero_and_is_half_in_the_middle():
    found = rates(110, [5, 10, 60, 110, 200], schedule='cosine', warmup_steps=10)
    assert found == pytest.approx([0.25, 0.5, 0.25, 0, 0], abs=1e-6)


@pytest.mark.parametrize('schedule', ['cosine', 'constant'])
def test_a_run_shorter_than_the_warm_up_still_learns(schedule):
    found = rates(4, [0, 2, 3], schedule=schedule, warmup_steps=20)
    assert found == pytest.approx([0, 0.25, 0.375])


def test_the_global_norm_is_clipped_before_adam_and_weight_decay_is_decoupled():
    config = OptimizerConfig(learning_rate=0.1, schedule='constant', warmup_steps=1, weight_decay=0.5, clip_norm=1.0)
    optimizer = make_optimizer(config, 10)
    params = {'a': jnp.array([2.0]), 'b': jnp.array([0.0])}
    grads, state = {'a': jnp.array([30.0]), 'b': jnp.array([40.0])}, optimizer.init(params)
    _, state = optimizer.update(grads, state, params)
    np.testing.assert_allclose([state[1][0].mu['a'][0], state[1][0].mu['b'][0]], [0.06, 0.08], rtol=1e-4)
    updates, state = optimizer.update(grads, state, params)
    # Adam's step for a constant gradient is its sign of the gradient; decay adds 0.5 * weight.
    np.testing.assert_allclose(updates['a'], [-0.1 * (1 + 0.5 * 2)], rtol=1e-4)
    np.testing.assert_allclose(updates['b'], [-0.1], rtol=1e-4)


def test_no_warm_up_starts_at_the_full_rate():
    assert rates(100, [0, 1], schedule='cosine', warmup_steps=0) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert rates(100, [0, 1, 50], schedule='constant', warmup_steps=0) == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.slow
def test_muon_moves_stacked_matrices_orthogonally_and_the_rest_as_adamw():
    """AdamW with Nesterov momentum, as optax.contrib.muon has it."""
    config = OptimizerConfig(name='muon', learning_rate=0.1, schedule='constant', warmup_steps=0, weight_decay=0.5)
    shapes = {
        'embed_tokens': {'embedding': (7, 6)},
        'layers': {
            'q_proj': {'kernel': (2, 8, 6)},
            'up_proj': {'lora_A': (2, 6, 4), 'lora_B': (2, 4, 9)},
            'norm': {'weight': (2, 6)},
        },
        'lm_head': {'kernel': (6, 7)},
    }
    rng = np.random.default_rng(0)

    def draw():
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    muon = make_optimizer(config, 10)
    plain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(0.1, b1=config.b1, b2=config.b2, weight_decay=0.5, nesterov=True),
    )
    params = draw()
    muon_state, plain_state = muon.init(params), plain.init(params)
    for _ in range(3):
        grads = draw()
        updates, muon_state = muon.update(grads, muon_state, params)
        expected, plain_state = plain.update(grads, plain_state, params)
    rest = ('embed_tokens', 'embedding'), ('layers', 'norm', 'weight'), ('lm_head', 'kernel')
    for path in rest:
        np.testing.assert_allclose(_leaf(updates, path), _leaf(expected, path), rtol=1e-6)
    for path in ('q_proj', 'kernel'), ('up_proj', 'lora_A'), ('up_proj', 'lora_B'):
        for layer in _leaf(updates, ('layers', *path)) + 0.1 * 0.5 * _leaf(params, ('layers', *path)):
            singular = np.linalg.svd(layer, compute_uv=False)
            assert singular.max() < 2 * singular.min()  # five Newton-Schulz steps come this close
            assert 0.5 < np.sqrt(np.mean(layer**2)) / (0.1 * MUON_RMS) < 1.5


def _leaf(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)
