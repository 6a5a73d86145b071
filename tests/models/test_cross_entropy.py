"""Losses by parts of the vocabulary against log_softmax of all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.evaluation.flops import count_flops
from pic_jax.models import cross_entropy
from pic_jax.models.cross_entropy import frozen_nats, words_at_a_time
from pic_jax.models.decoder import Decoder
from pic_jax.models.scoring import token_nats


@pytest.fixture(params=[True, False], ids=['tied', 'untied'])
def case(request, tiny_config, random_params, monkeypatch):
    """Decoder, parameters, hidden states and tokens; 96 words are taken 24 at a time."""
    monkeypatch.setattr(cross_entropy, 'MOST', 24)
    words_at_a_time.cache_clear()
    decoder = Decoder(tiny_config(vocab_size=96, tie_word_embeddings=request.param))
    rng = np.random.default_rng(0)
    hidden_BTD = jnp.asarray(3 * rng.standard_normal((2, 5, decoder.config.hidden_size)), jnp.float32)
    tokens_BT = jnp.asarray([[0, 23, 24, 95, 50], [1, 2, 47, 48, 72]], jnp.int32)
    yield decoder, random_params(decoder), hidden_BTD, tokens_BT
    words_at_a_time.cache_clear()


def whole(decoder, params, hidden_BTD, tokens_BT):
    return token_nats(decoder.apply({'params': params}, hidden_BTD, method='logits'), tokens_BT)


def test_nats_and_gradients_are_those_of_all_logits(case):
    decoder, params, hidden_BTD, tokens_BT = case
    weight_BT = jnp.asarray(np.random.default_rng(1).standard_normal(tokens_BT.shape), jnp.float32)

    def both(nats):
        def loss(hidden_BTD):
            nats_BT = nats(decoder, params, hidden_BTD, tokens_BT)
            return jnp.sum(nats_BT * weight_BT), nats_BT

        return jax.jit(jax.grad(loss, has_aux=True))(hidden_BTD)

    (found_BTD, nats_BT), (wanted_BTD, wanted_BT) = both(frozen_nats), both(whole)
    np.testing.assert_allclose(nats_BT, wanted_BT, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_BTD, wanted_BTD, atol=1e-5)
    assert float(jnp.abs(wanted_BTD).min()) < 0.1 < float(jnp.abs(wanted_BTD).max())
    np.testing.assert_allclose(frozen_nats(decoder, params, hidden_BTD, tokens_BT), wanted_BT, rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite(case):
    decoder, params, hidden_BTD, tokens_BT = case
    loss = jax.value_and_grad(lambda x: jnp.sum(frozen_nats(decoder, params, x, tokens_BT)))
    for scale in (0.0, 1e4):
        nats, gradient = loss(scale * hidden_BTD)
        assert jnp.isfinite(gradient).all()
        np.testing.assert_allclose(nats, jnp.sum(whole(decoder, params, scale * hidden_BTD, tokens_BT)), rtol=1e-5)


def test_parameters_get_no_gradient(case):
    decoder, params, hidden_BTD, tokens_BT = case
    gradient = jax.grad(lambda params: jnp.sum(frozen_nats(decoder, params, hidden_BTD, tokens_BT)))(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_training_multiplies_by_the_matrix_twice(case):
    decoder, params, hidden_BTD, tokens_BT = case

    def flops(nats):
        return count_flops(jax.grad(lambda x: jnp.sum(nats(decoder, params, x, tokens_BT))), hidden_BTD)

    product = 2 * hidden_BTD.size * decoder.config.vocab_size
    assert 2 * product <= flops(frozen_nats) < 2.1 * product
    assert flops(whole) == 2 * product


@pytest.mark.parametrize(
    ('words', 'expected'), [(32000, 8000), (128256, 8016), (2048, 2048), (50257, 1733), (8209, 8209), (16000, 8000)]
)
def test_words_at_a_time(words, expected):
    assert words_at_a_time(words) == expected
    assert words % expected == 0
