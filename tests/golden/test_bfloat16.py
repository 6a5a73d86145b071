"""How far compute in bfloat16 may move memory and losses, and that sums are kept in float32 all the same."""

import golden
import golden_spread
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import CompressorConfig
from pic_jax.files import read_json
from pic_jax.models.attention import PatternMask, attend
from pic_jax.models.cross_entropy import frozen_nats
from pic_jax.models.decoder import Decoder
from pic_jax.patterns import Pattern

HALF_STEP = 2.0**-9  # the largest relative error of rounding to bfloat16
# Of the fields of benchmarks/golden_spread.py: at least MARGIN times what it measured.
# The worst slot is mean pooling's: means of states that nearly cancel keep the states' error.
BOUNDS = {'loss': 0.04, 'grad_norm': 0.4, 'memory': 0.05, 'worst_slot': 0.12}
MARGIN = 2


def low(array: np.ndarray) -> jax.Array:
    """Rounded to bfloat16, which float32 and bfloat16 compute then start from alike."""
    return jnp.asarray(array, jnp.bfloat16)


def distance(found: jax.Array, wanted: jax.Array) -> float:
    """Norm of the difference over that of what is wanted."""
    found, wanted = (np.asarray(each, np.float32) for each in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope='module')
def queries_keys_values():
    """Of 1,000 tokens that see all before them, and their slots; logits are of a size of 8, as in trained models."""
    options = dict(ratio=16, chunk_size=64, context_sees='causal', memory_sees_memory='previous')
    rng, pattern = np.random.default_rng(0), Pattern(CompressorConfig.preset('pic', **options), 1000)
    q_BTNH, k_BSKH, v_BSKH = (low(rng.standard_normal((1, pattern.shape[0], 2, 16))) for _ in range(3))
    return pattern, (8 * q_BTNH, k_BSKH, v_BSKH)


def attention(dtype, arrays, pattern, backend):
    mask = PatternMask(jnp.ones((1, pattern.shape[1]), bool), pattern)
    return attend(*(each.astype(dtype) for each in arrays), mask, backend, 'cpu')


def all_in_bfloat16(q_BTNH, k_BSKH, v_BSKH, mask_BTS):
    """Attention as it must not be: logits, their exponentials and the sum are rounded to bfloat16."""
    logits_BNTS = jnp.einsum('btnh,bsnh->bnts', q_BTNH, k_BSKH) * low(q_BTNH.shape[-1] ** -0.5)
    weights_BNTS = jax.nn.softmax(jnp.where(mask_BTS[:, None], logits_BNTS, -jnp.inf), axis=-1)
    return jnp.einsum('bnts,bsnh->btnh', weights_BNTS, v_BSKH)


@pytest.mark.slow
def test_softmax_is_summed_in_float32(queries_keys_values):
    """Weights and outputs are rounded once each; logits and sums are not."""
    pattern, arrays = queries_keys_values
    wanted = attention(jnp.float32, arrays, pattern, 'dense')
    for backend in ('dense', 'structured'):
        assert distance(attention(jnp.bfloat16, arrays, pattern, backend), wanted) < 2 * HALF_STEP
    assert distance(all_in_bfloat16(*arrays, jnp.asarray(pattern.dense()[None])), wanted) > 4 * HALF_STEP


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_losses_of_tokens_are_summed_in_float32(tiny_config, random_params, tied):
    """From states and a matrix of bfloat16 they are those of float32, as products of two bfloat16 numbers are exact.
    Their gradients are rounded: the weights of the matrix's columns and what comes out."""
    rng, config = np.random.default_rng(0), tiny_config(vocab_size=512, hidden_size=64, tie_word_embeddings=tied)
    decoders = {dtype: Decoder(config, dtype=jnp.dtype(dtype)) for dtype in ('float32', 'bfloat16')}
    params = jax.tree.map(low, random_params(decoders['float32']))
    hidden_BTD, tokens_BT = low(rng.standard_normal((2, 50, 64))), jnp.asarray(rng.integers(0, 512, (2, 50)))

    def loss(decoder):
        def summed(hidden_BTD, params):
            nats_BT = frozen_nats(decoder, params, hidden_BTD, tokens_BT)
            return jnp.sum(nats_BT), nats_BT

        return jax.jit(jax.grad(summed, has_aux=True))

    found = {dtype: loss(decoder)(hidden_BTD.astype(dtype), params) for dtype, decoder in decoders.items()}
    (_, nats), (gradient_BTD, wanted) = found['bfloat16'], found['float32']
    assert nats.dtype == jnp.float32
    np.testing.assert_allclose(nats, wanted, rtol=1e-5)
    assert distance(found['bfloat16'][0], gradient_BTD) < 2 * HALF_STEP
    matrix = params['embed_tokens']['embedding'].T if tied else params['lm_head']['kernel']
    rounded = jax.nn.log_softmax(hidden_BTD @ matrix)
    rounded = -jnp.take_along_axis(rounded, tokens_BT[..., None], axis=-1)[..., 0]
    assert distance(rounded, wanted) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('name', golden.CASES)
def test_losses_and_memory_stay_near_those_of_float32(name):
    row = golden_spread.row(golden_spread.LOW, name)
    assert {field: row[field] for field, bound in BOUNDS.items() if not row[field] <= bound} == {}


def test_the_bounds_cover_what_was_measured():
    rows = [row for row in read_json(golden_spread.RESULTS)['rows'] if row['variation'] == golden_spread.LOW]
    assert sorted(row['case'] for row in rows) == sorted(golden.CASES)
    for row in rows:
        assert all(MARGIN * row[field] <= bound for field, bound in BOUNDS.items()), row
