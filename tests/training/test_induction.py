"""The copying circuit is there before any training, read from attention and from behaviour."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import PretrainConfig
from pic_jax.errors import ConfigError
from pic_jax.models.decoder import Decoder
from pic_jax.models.rope import rotate, rotation
from pic_jax.training import pretrain

V, N, PERIOD = 64, 4, 24
T = 2 * PERIOD


@pytest.fixture(scope='module')
def tokens_BT():  # noqa: N802
    """Random distinct tokens, twice."""
    rng = np.random.default_rng(0)
    half = np.stack([rng.permutation(np.arange(2, V))[:PERIOD] for _ in range(24)])
    return np.concatenate([half, half], axis=1)


def untrained(monkeypatch=None):
    config = PretrainConfig(
        vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=N,
        num_key_value_heads=N,
    )  # fmt: skip
    if monkeypatch:
        monkeypatch.setattr(pretrain, 'with_induction', lambda params, *_: params)
    decoder = Decoder(config.decoder)
    return decoder, pretrain.initial_params(decoder, config)


def attention(decoder, params, layer, tokens_BT):
    """[B, N, T, S] attention of layer 0 or 1, from its own kernels."""
    B = len(tokens_BT)
    below = dataclasses.replace(decoder.config, num_hidden_layers=1)
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    x_BTD = params['embed_tokens']['embedding'][tokens_BT]
    if layer == 1:
        first = params | {'layers': jax.tree.map(lambda x: x[:1], params['layers'])}
        # All norms of fresh weights are 1: the final norm after layer 0 is what layer 1 begins with.
        mask = jnp.tri(T, dtype=bool)[None]
        x_BTD, _ = Decoder(below).apply({'params': first}, x_BTD, positions_BT, mask)
    x_BTD = x_BTD / jnp.sqrt(jnp.mean(x_BTD**2, axis=-1, keepdims=True) + decoder.config.rms_norm_eps)
    H = decoder.config.head_dim
    cos_sin = rotation(decoder.config.rope, H, positions_BT, jnp.float32)
    kernels = params['layers']['self_attn']
    q, k = (rotate((x_BTD @ kernels[f'{n}_proj']['kernel'][layer]).reshape(B, T, N, H), *cos_sin) for n in 'qk')
    scores = jnp.einsum('btnh,bsnh->bnts', q, k) / H**0.5
    return np.asarray(jax.nn.softmax(jnp.where(jnp.tri(T, dtype=bool)[None, None], scores, -jnp.inf), axis=-1))


@pytest.mark.slow
def test_a_head_of_the_first_layer_attends_to_the_previous_token(tokens_BT, monkeypatch):
    queries = np.arange(1, T)

    def previous(decoder, params):
        """[N] mean attention of every head to the position before."""
        return attention(decoder, params, 0, tokens_BT)[:, :, queries, queries - 1].mean((0, 2))

    assert previous(*untrained())[0] > 0.85
    assert (previous(*untrained(monkeypatch)) < 0.15).all()


@pytest.mark.slow
def test_heads_of_the_second_layer_attend_to_what_followed_the_present_token(tokens_BT, monkeypatch):
    queries = np.arange(PERIOD, T - 1)
    even = (1 / (queries + 1)).mean()

    def followed(decoder, params):
        return attention(decoder, params, 1, tokens_BT)[:, :, queries, queries - PERIOD + 1].mean((0, 2)) / even

    assert (followed(*untrained())[:2] > 5).all()
    assert (followed(*untrained(monkeypatch)) < 1.3).all()


@pytest.mark.slow
def test_an_untrained_model_goes_on_with_what_it_has_read(tokens_BT, monkeypatch):
    """Accuracy in the second of two equal periods; chance is 1 / V = 0.016."""

    def accuracy(decoder, params):
        logits = decoder.apply({'params': params}, tokens_BT, method='forward')[:, PERIOD:-1]
        return np.mean(np.argmax(logits, axis=-1) == tokens_BT[:, PERIOD + 1 :])

    assert accuracy(*untrained()) > 0.2
    assert accuracy(*untrained(monkeypatch)) < 0.05


def test_a_shape_without_room_for_the_circuits_is_refused():
    config = PretrainConfig(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2)
    with pytest.raises(ConfigError, match='the copying circuits need 2 layers and num_attention_heads'):
        pretrain.initial_params(Decoder(config.decoder), config)


def test_circuits_are_a_function_of_the_seed():
    one, other = (untrained()[1] for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
