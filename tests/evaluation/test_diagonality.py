"""Attention from memory slots to context tokens: against the layers' own output, the mask, and maps known by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import LoraConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation.diagonality import diagonality, memory_attention, probabilities
from pic_jax.masks import make_layout
from pic_jax.models.decoder import Block, Decoder
from pic_jax.models.rope import rotation

N_TOKENS, RATIO, CHUNK = 12, 2, 4


@pytest.fixture(scope='module')
def make_run(tiny_config, random_params, bare_run):
    """A function from compressor settings, and the target's `qk_norm`, to (run, trainable); every adapter matters."""

    def make(qk_norm=False, **compressor):
        config = tiny_config(qk_norm=qk_norm)
        base = random_params(Decoder(config))
        lora = LoraConfig(rank=2, alpha=3.0)
        made = bare_run(config, base, dict(ratio=RATIO, context_length=16, lora=lora) | compressor)
        moved = lambda path, leaf: leaf + 0.1 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)
        return made, jax.tree_util.tree_map_with_path(moved, made.init_trainable())

    return make


@pytest.fixture(scope='module')
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(2, 64, (3, N_TOKENS)), jnp.int32)


@pytest.mark.slow
@pytest.mark.parametrize('qk_norm', [False, True])
def test_probabilities_times_values_are_the_layers_output(make_run, tokens, qk_norm):
    """Layer by layer through the scanned stack's own parameters, up to the hidden states that the encoder gives."""
    run, trainable = make_run(qk_norm, method='pic', chunk_size=CHUNK, context_sees='chunk+memory')
    decoder, config, layout = run.decoder, run.decoder.config, make_layout(run.compressor.config, N_TOKENS)
    positions_BS = jnp.asarray(layout.positions(np.full(3, N_TOKENS)))
    mask_1SS = jnp.asarray(layout.dense_mask())[None]
    variables, x_BSD = run.compressor.encoder_input(run.base, trainable, tokens, layout.embedding_index[None])
    hidden_BSD, _ = decoder.apply(variables, x_BSD, positions_BS, mask_1SS)
    cos_sin = rotation(config.rope, config.head_dim, positions_BS, decoder.dtype)
    block, means = Block(config, decoder.dtype, decoder.param_dtype), []
    for layer in range(config.num_hidden_layers):
        weights = {name: jax.tree.map(lambda w, i=layer: w[i], tree['layers']) for name, tree in variables.items()}
        (x_BSD, _), state = block.apply(weights, x_BSD, None, cos_sin, mask_1SS, capture_intermediates=True)
        captured = state['intermediates']['self_attn']
        attention_BNSS = probabilities(config, captured, cos_sin, mask_1SS)
        v_BSKH = captured['v_proj']['__call__'][0].reshape(3, -1, config.num_key_value_heads, config.head_dim)
        v_BSNH = jnp.repeat(v_BSKH, config.num_attention_heads // config.num_key_value_heads, axis=2)
        out_BSI = jnp.einsum('BNTS,BSNH->BTNH', attention_BNSS, v_BSNH).reshape(3, x_BSD.shape[1], -1)
        o_proj = {key: weights[key]['self_attn']['o_proj'] for key in weights}
        kernel_IO = o_proj['params']['kernel'] + o_proj['lora']['lora_A'] @ o_proj['lora']['lora_B']
        np.testing.assert_allclose(out_BSI @ kernel_IO, captured['__call__'][0][0], atol=2e-5)
        means.append(np.asarray(attention_BNSS[:, :, N_TOKENS:, :N_TOKENS]).mean(axis=(0, 1)))
    normed_BSD = decoder.apply(variables, x_BSD, method=lambda decoder, x: decoder.norm(x))
    np.testing.assert_allclose(normed_BSD, hidden_BSD, atol=2e-5)
    np.testing.assert_allclose(memory_attention(run, trainable, tokens), np.stack(means), atol=1e-5)


def test_chunk_local_slots_look_at_their_chunk_only(make_run, tokens):
    attention_Lkn = np.asarray(memory_attention(*make_run(method='pic', chunk_size=CHUNK), tokens))
    assert attention_Lkn.shape == (2, N_TOKENS // RATIO, N_TOKENS)
    own_kn = np.arange(N_TOKENS)[None] // CHUNK == RATIO * np.arange(N_TOKENS // RATIO)[:, None] // CHUNK
    assert (attention_Lkn[:, ~own_kn] == 0).all()
    assert (attention_Lkn[:, own_kn] > 0).all()
    # A chunk's first slot sees the chunk and itself, its second also the first: the context gets less than everything.
    sums_Lk = attention_Lkn.sum(axis=-1)
    assert (sums_Lk < 1).all()
    assert (sums_Lk > 0).all()


def test_whole_window_slots_look_everywhere(make_run, tokens):
    attention_Lkn = np.asarray(memory_attention(*make_run(method='icae', lora=LoraConfig(rank=0)), tokens))
    assert (attention_Lkn > 0).all()
    assert (attention_Lkn.sum(axis=-1) < 1).all()


def test_a_batch_is_averaged(make_run, tokens):
    run, trainable = make_run(method='epl')
    alone = [np.asarray(memory_attention(run, trainable, tokens[row : row + 1])) for row in range(3)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(memory_attention(run, trainable, tokens), np.mean(alone, axis=0), atol=1e-5)


def test_what_has_no_such_attention_is_refused(make_run, tokens):
    run, trainable = make_run(method='icae', window=8)
    with pytest.raises(ConfigError, match=r'contexts of 12 tokens .* compressor\.window=8'):
        memory_attention(run, trainable, tokens)
    run, _ = make_run(method='constant_memory')
    run = dataclasses.replace(run, compressor=make_compressor(run.config.compressor, run.decoder))
    with pytest.raises(ConfigError, match='constant_memory has no attention'):
        memory_attention(run, run.init_trainable(), tokens)


def own_tokens(k: int, n: int, ratio: int) -> np.ndarray:
    return (np.arange(n)[None] // ratio == np.arange(k)[:, None]).astype(np.float32)


@pytest.mark.parametrize(('n', 'ratio'), [(12, 4), (13, 4), (96, 8), (5, 8), (7, 1)])
def test_uniform_attention_has_diagonality_one(n, ratio):
    k = -(-n // ratio)
    assert diagonality(np.full((k, n), 0.3 / n), ratio) == pytest.approx(1)


def test_diagonality_by_hand():
    # Bands of 8, 12 and 8 of 12 tokens: all attention in them is 12/8, 12/12 and 12/8 of what uniform gives.
    assert diagonality(own_tokens(3, 12, 4), 4) == pytest.approx((1.5 + 1 + 1.5) / 3)
    # 13 tokens: the last slot stands for one of them; bands of 8, 12, 9 and 5.
    assert diagonality(own_tokens(4, 13, 4), 4) == pytest.approx((13 / 8 + 13 / 12 + 13 / 9 + 13 / 5) / 4)
    # Slots that read the context backwards: only the middle one looks into its band.
    assert diagonality(own_tokens(3, 12, 4)[::-1], 4) == pytest.approx((0 + 1 + 0) / 3)


def test_diagonality_does_not_depend_on_what_goes_to_other_slots():
    attention = np.random.default_rng(0).random((6, 24))
    weights = np.random.default_rng(1).uniform(0.1, 1, (6, 1))
    assert diagonality(attention * weights, 4) == pytest.approx(diagonality(attention, 4))


def test_diagonality_of_another_ratio_is_refused():
    with pytest.raises(PicJaxError, match=r'3 slots over 12 tokens .* expected 6 at ratio 2'):
        diagonality(own_tokens(3, 12, 4), 2)
