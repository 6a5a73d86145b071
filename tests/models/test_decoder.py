"""The decoder against itself: cache, masks, padding, remat, dtypes, adapters, generation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import LINEARS, LoraConfig, RopeConfig
from pic_jax.errors import ConfigError
from pic_jax.memory import Memory
from pic_jax.models import lora as lora_lib
from pic_jax.models.decoder import Decoder, KeyValues, init_params
from pic_jax.models.generation import Sampling, generate, sample
from pic_jax.models.inputs import DecoderInput, causal_mask, from_memory, from_tokens

LLAMA3 = RopeConfig(type='llama3', factor=8.0, original_max_position_embeddings=32)


@pytest.fixture(scope='module')
def model(tiny_config, random_params):
    """A decoder that uses every feature: GQA, head_dim != D / N, llama3 RoPE, biases."""
    decoder = Decoder(tiny_config(head_dim=6, rope=LLAMA3, attention_bias=True, mlp_bias=True))
    return decoder, random_params(decoder)


def _ids(shape, seed=0, vocab=64):
    return jax.random.randint(jax.random.key(seed), shape, 0, vocab, jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _run(decoder, variables, x_BTD, positions_BT, mask_BTS, past=None):
    """(hidden, logits, key_values); jitted because eager application compiles anew in every call."""
    hidden_BTD, key_values = decoder.apply(variables, x_BTD, positions_BT, mask_BTS, past)
    return hidden_BTD, decoder.apply(variables, hidden_BTD, method='logits'), key_values


@functools.partial(jax.jit, static_argnums=0)
def _forward(decoder, variables, ids_BT):
    return decoder.apply(variables, ids_BT, method='forward')


def _close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)


def test_parameters_are_named_and_shaped_as_documented(tiny_config):
    decoder = Decoder(tiny_config(head_dim=6, attention_bias=True, mlp_bias=True))
    params = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))
    shapes = {'.'.join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert shapes == {
        'embed_tokens.embedding': (64, 32),
        'layers.input_layernorm.weight': (2, 32),
        'layers.self_attn.q_proj.kernel': (2, 32, 24),
        'layers.self_attn.q_proj.bias': (2, 24),
        'layers.self_attn.k_proj.kernel': (2, 32, 12),
        'layers.self_attn.k_proj.bias': (2, 12),
        'layers.self_attn.v_proj.kernel': (2, 32, 12),
        'layers.self_attn.v_proj.bias': (2, 12),
        'layers.self_attn.o_proj.kernel': (2, 24, 32),
        'layers.self_attn.o_proj.bias': (2, 32),
        'layers.post_attention_layernorm.weight': (2, 32),
        'layers.mlp.gate_proj.kernel': (2, 32, 48),
        'layers.mlp.gate_proj.bias': (2, 48),
        'layers.mlp.up_proj.kernel': (2, 32, 48),
        'layers.mlp.up_proj.bias': (2, 48),
        'layers.mlp.down_proj.kernel': (2, 48, 32),
        'layers.mlp.down_proj.bias': (2, 32),
        'norm.weight': (32,),
        'lm_head.kernel': (32, 64),
    }


@pytest.mark.parametrize('split', [1, 2, 3, 4])
def test_cache_equals_full_forward(model, split):
    decoder, params = model
    B, T = 2, 5
    ids_BT = _ids((B, T))
    positions_BT = jnp.tile(jnp.asarray([[0, 1, 4, 40, 41]], jnp.int32), (B, 1))
    mask_1TT = jnp.tri(T, dtype=bool)[None]
    x_BTD = decoder.apply({'params': params}, ids_BT, method='embed')
    full, logits, full_kv = _run(decoder, {'params': params}, x_BTD, positions_BT, mask_1TT)
    first, second = slice(0, split), slice(split, T)
    head, _, past = _run(
        decoder, {'params': params}, x_BTD[:, first], positions_BT[:, first], mask_1TT[:, first, first]
    )
    tail, tail_logits, kv = _run(
        decoder, {'params': params}, x_BTD[:, second], positions_BT[:, second], mask_1TT[:, second], past
    )
    _close(jnp.concatenate([head, tail], axis=1), full)
    _close(tail_logits, logits[:, second])
    for name in KeyValues._fields:
        joined = jnp.concatenate([getattr(past, name), getattr(kv, name)], axis=2)
        assert joined.shape == (2, B, T, 2, 6)
        _close(joined, getattr(full_kv, name))


def _influence(decoder, params, mask_TS):
    """[T, T]: the largest gradient of hidden t with respect to input s."""
    T = mask_TS.shape[0]
    x_1TD = jax.random.normal(jax.random.key(3), (1, T, decoder.config.hidden_size))
    positions_1T = jnp.arange(T)[None]
    hidden = lambda x: decoder.apply({'params': params}, x, positions_1T, mask_TS[None])[0][0]
    gradient_TDTD = jax.jit(jax.jacrev(hidden))(x_1TD)[:, :, 0]
    return np.abs(np.asarray(gradient_TDTD)).max(axis=(1, 3))


def test_causal_mask_through_gradients(model):
    influence_TS = _influence(*model, causal_mask(jnp.ones((1, 6), bool)).dense[0])
    seen = np.tri(6, dtype=bool)
    assert np.all(influence_TS[~seen] == 0)
    assert np.all(influence_TS[seen] > 1e-4)


def test_any_mask_is_followed_entry_by_entry(tiny_config, random_params):
    # One layer: position t depends on the keys that its row shows, and on itself through the residual.
    decoder = Decoder(tiny_config(num_hidden_layers=1))
    params = random_params(decoder)
    mask_TS = np.array([[1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]], bool)
    influence_TS = _influence(decoder, params, jnp.asarray(mask_TS))
    assert ((influence_TS > 1e-4) == (mask_TS | np.eye(4, dtype=bool))).all()
    assert np.all(influence_TS[influence_TS <= 1e-4] == 0)


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['dots', 'full'])
def test_remat_recomputes_and_gives_the_same_gradients(model, policy):
    plain, params = model
    remat = dataclasses.replace(plain, remat=policy)
    ids_BT = _ids((2, 5))

    def loss(decoder, params):
        return jnp.mean(jax.nn.logsumexp(decoder.apply({'params': params}, ids_BT, method='forward'), axis=-1))

    def has_remat(decoder):
        return 'remat' in str(jax.make_jaxpr(jax.grad(functools.partial(loss, decoder)))(params))

    assert has_remat(remat)
    assert not has_remat(plain)
    expected, actual = (jax.jit(jax.grad(functools.partial(loss, decoder)))(params) for decoder in (plain, remat))
    jax.tree.map(functools.partial(_close, tolerance=1e-6), actual, expected)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1e-6


def test_bfloat16_computes_low_and_returns_float32_logits(model):
    decoder, params = model
    low = dataclasses.replace(decoder, dtype=jnp.bfloat16)
    positions_BT, mask_1TT = jnp.tile(jnp.arange(6)[None], (2, 1)), jnp.tri(6, dtype=bool)[None]
    x_BTD = low.apply({'params': params}, _ids((2, 6)), method='embed')
    hidden, rounded, kv = _run(low, {'params': params}, x_BTD, positions_BT, mask_1TT)
    assert x_BTD.dtype == hidden.dtype == kv.k.dtype == kv.v.dtype == jnp.bfloat16
    exact = _forward(decoder, {'params': params}, _ids((2, 6)))
    assert exact.dtype == rounded.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean((exact - rounded) ** 2)) / jnp.std(exact))
    assert 1e-4 < error < 0.02  # bfloat16 keeps 8 bits


def test_padding_anywhere_changes_nothing(model):
    decoder, params = model
    ids_BT = _ids((1, 6))
    expected = _forward(decoder, {'params': params}, ids_BT)
    # Pads first, in the middle and last; their ids and positions are arbitrary.
    at = np.array([1, 2, 4, 5, 8, 9])
    padded_ids_BT = jnp.full((1, 11), 7).at[:, at].set(ids_BT)
    positions_BT = jnp.full((1, 11), 99).at[:, at].set(jnp.arange(6)[None])
    valid_BT = jnp.zeros((1, 11), bool).at[:, at].set(True)
    x_BTD = decoder.apply({'params': params}, padded_ids_BT, method='embed')
    _, logits, _ = _run(decoder, {'params': params}, x_BTD, positions_BT, causal_mask(valid_BT))
    _close(logits[:, at], expected)
    _, unmasked, _ = _run(decoder, {'params': params}, x_BTD, positions_BT, causal_mask(jnp.ones((1, 11), bool)))
    assert float(jnp.abs(unmasked[:, at] - expected).max()) > 1e-2


@pytest.mark.parametrize('special', [(3,), ()], ids=['special', 'no special'])
def test_memory_input_of_word_embeddings_reads_like_the_words(model, special):
    # [prefix][memory][special][text], memory and special being embeddings of words: the decoder must see plain text.
    decoder, params = model
    prefix, words_BM, text_BT = (1, 9), _ids((2, 4), 1), _ids((2, 3), 2)
    lengths_B, text_lengths_B = jnp.array([4, 2], jnp.int32), jnp.array([2, 3], jnp.int32)
    embed = lambda ids: decoder.apply({'params': params}, ids, method='embed')
    memory = Memory(
        embeddings=embed(words_BM),
        positions=jnp.tile(jnp.arange(4)[None], (2, 1)),
        valid=jnp.arange(4)[None] < lengths_B[:, None],
        text_start=lengths_B,
    )
    read = jax.jit(from_memory, static_argnums=(0, 4))
    special_D = embed(jnp.array([special]))[0, 0] if special else None
    inputs = read(decoder, params, memory, special_D, prefix, text_BT, text_lengths_B)
    _, logits, _ = _run(decoder, {'params': params}, inputs.x, inputs.positions, causal_mask(inputs.valid))
    assert inputs.valid.sum(axis=1).tolist() == [2 + 4 + len(special) + 2, 2 + 2 + len(special) + 3]
    words_BT = np.zeros(inputs.valid.shape, np.int32)  # the same words, right-padded
    for b, (k, t) in enumerate(((4, 2), (2, 3))):
        words_BT[b, : 2 + k + len(special) + t] = [*prefix, *words_BM[b, :k], *special, *text_BT[b, :t]]
    plain = _forward(decoder, {'params': params}, words_BT)
    for b in range(2):
        at = np.flatnonzero(inputs.valid[b])
        _close(logits[b, at], plain[b, : len(at)])


RANK = LoraConfig(rank=4, alpha=6.0, targets=LINEARS)


def _adapter(params, trained=()):
    """An adapter on every linear layer; B is zero except in the layers named `trained`."""
    tree = lora_lib.init_lora(jax.random.key(5), params, RANK)
    rng = np.random.default_rng(7)
    for layer in tree['layers'].values():
        for name in set(trained) & set(layer):
            shape = layer[name]['lora_B'].shape
            layer[name]['lora_B'] = jnp.asarray(0.1 * rng.standard_normal(shape).astype(np.float32))
    return tree


def test_adapter_has_the_targets_and_nothing_else(model):
    _, params = model
    tree = lora_lib.init_lora(jax.random.key(5), params, LoraConfig(rank=3, targets=('v_proj', 'down_proj')))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
    assert shapes == {
        'layers': {
            'self_attn': {'v_proj': {'lora_A': ((2, 32, 3), 'float32'), 'lora_B': ((2, 3, 12), 'float32')}},
            'mlp': {'down_proj': {'lora_A': ((2, 48, 3), 'float32'), 'lora_B': ((2, 3, 32), 'float32')}},
        }
    }
    for layer in tree['layers'].values():
        for factors in layer.values():
            bound = factors['lora_A'].shape[1] ** -0.5
            assert 0.9 * bound < float(jnp.abs(factors['lora_A']).max()) <= bound
            assert not factors['lora_B'].any()
    assert lora_lib.init_lora(jax.random.key(5), params, LoraConfig(rank=0)) == {}


def test_fresh_adapter_is_bit_equal_to_none(model):
    decoder, params = model
    ids_BT = _ids((2, 6))
    fresh = lora_lib.scaled(_adapter(params), RANK)
    assert len(jax.tree.leaves(fresh)) == 2 * len(LINEARS)
    expected = _forward(decoder, {'params': params}, ids_BT)
    np.testing.assert_array_equal(_forward(decoder, {'params': params, 'lora': fresh}, ids_BT), expected)
    np.testing.assert_array_equal(_forward(decoder, {'params': params, 'lora': {}}, ids_BT), expected)


@pytest.mark.parametrize('trained', [(name,) for name in LINEARS] + [LINEARS], ids='+'.join)
def test_adapter_equals_merged_weights(model, trained):
    decoder, params = model
    lora = _adapter(params, trained)
    merged = jax.tree.map(lambda leaf: leaf, params)
    for group, layer in lora['layers'].items():
        for name, factors in layer.items():
            # alpha / rank = 1.5
            merged['layers'][group][name]['kernel'] += 1.5 * np.einsum('lir,lro->lio', *factors.values())
    ids_BT = _ids((2, 6))
    actual = _forward(decoder, {'params': params, 'lora': lora_lib.scaled(lora, RANK)}, ids_BT)
    _close(actual, _forward(decoder, {'params': merged}, ids_BT))
    assert float(jnp.abs(actual - _forward(decoder, {'params': params}, ids_BT)).max()) > 1e-2


# Generation. One batch of prompts serves all tests, so that the loop compiles once for each setting.

PROMPTS, LENGTHS, NEW = _ids((2, 5), 4), (5, 2), 10


@pytest.fixture(scope='module')
def inputs(model):
    return from_tokens(*model, PROMPTS, jnp.array(LENGTHS))


@pytest.fixture(scope='module')
def greedy(model, inputs):
    tokens, lengths = generate(*model, inputs, NEW)
    assert tokens.shape == (2, NEW)
    assert tokens.dtype == jnp.int32
    assert lengths.tolist() == [NEW, NEW]
    assert all(len(set(row.tolist())) > 3 for row in tokens)  # a loop over one token would prove little
    return np.asarray(tokens)


def test_generation_is_the_argmax_of_full_forwards(model, greedy):
    decoder, params = model
    text_BT = np.zeros((2, max(LENGTHS) + NEW), np.int32)
    for b, length in enumerate(LENGTHS):
        text_BT[b, : length + NEW] = [*PROMPTS[b, :length], *greedy[b]]
    best_BT = np.asarray(jnp.argmax(_forward(decoder, {'params': params}, text_BT), axis=-1))
    for b, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(best_BT[b, length - 1 : length - 1 + NEW], greedy[b])


@pytest.mark.parametrize('row', [0, 1])
def test_generation_of_a_ragged_batch_equals_each_alone(model, greedy, row):
    alone = from_tokens(*model, PROMPTS[row : row + 1, : LENGTHS[row]], jnp.array(LENGTHS[row : row + 1]))
    assert alone.valid.all()
    np.testing.assert_array_equal(generate(*model, alone, NEW)[0][0], greedy[row])


def test_generation_does_not_mind_where_the_padding_is(model, greedy):
    decoder, params = model
    places = np.array([2, 3, 5, 6, 8]), np.array([1, 9])  # left, in the middle, and right except in row 1
    ids_BT, positions_BT, valid_BT = np.full((2, 10), 7), np.full((2, 10), 99), np.zeros((2, 10), bool)
    for b, at in enumerate(places):
        ids_BT[b, at], positions_BT[b, at], valid_BT[b, at] = PROMPTS[b, : len(at)], np.arange(len(at)), True
    x_BTD = decoder.apply({'params': params}, jnp.asarray(ids_BT, jnp.int32), method='embed')
    inputs = DecoderInput(x_BTD, jnp.asarray(positions_BT, jnp.int32), jnp.asarray(valid_BT))
    np.testing.assert_array_equal(generate(decoder, params, inputs, NEW)[0], greedy)


def test_each_row_stops_at_its_first_end_token(model, inputs, greedy):
    # One end token that row 0 reaches late, and one that row 1 starts with and row 0 never says.
    late = next(t for t in range(2, NEW) if greedy[0, t] not in {*greedy[0, :t], *greedy[1]})
    eos_ids = (int(greedy[0, late]), int(greedy[1, 0]))
    assert eos_ids[1] not in greedy[0]
    tokens, lengths = generate(*model, inputs, NEW, eos_ids)
    assert lengths.tolist() == [late, 0]
    np.testing.assert_array_equal(tokens[0], [*greedy[0, :late], *[eos_ids[0]] * (NEW - late)])
    np.testing.assert_array_equal(tokens[1], [eos_ids[1]] * NEW)


def test_one_new_token(model, inputs, greedy):
    tokens, lengths = generate(*model, inputs, 1)
    np.testing.assert_array_equal(tokens, greedy[:, :1])
    assert lengths.tolist() == [1, 1]


def test_sampling_follows_the_key(model, inputs, greedy):
    def draw(seed, **options):
        return np.asarray(generate(*model, inputs, NEW, (), Sampling(**options), jax.random.key(seed))[0])

    first = draw(1, temperature=1.5)
    np.testing.assert_array_equal(first, draw(1, temperature=1.5))
    assert (first != draw(2, temperature=1.5)).any()
    assert len(set(first[0].tolist())) > 3  # each step has its own key
    np.testing.assert_array_equal(draw(1, temperature=1.5, top_k=1), greedy)


@pytest.mark.parametrize('option', [('temperature', float('nan')), ('temperature', float('inf')), ('top_p', 0.0)])
def test_sampling_that_makes_no_sense_is_refused(option):
    name, value = option
    with pytest.raises(ConfigError, match=f'{name}={value}.* is not valid: expected finite temperature >= 0'):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ('sampling', 'kept'),
    [
        (Sampling(temperature=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=0.5), [0.16, 0.09, 0.04, 0.01]),
        (Sampling(temperature=1.0, top_k=3), [0.4, 0.3, 0.2, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [0.4, 0.3, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.39), [0.4, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.76), [0.4, 0.3, 0, 0]),  # top-k renormalises before top-p
    ],
    ids=str,
)
def test_samples_have_the_filtered_distribution(sampling, kept):
    count = 20000
    logits_BV = jnp.tile(jnp.log(jnp.array([[0.2, 0.4, 0.1, 0.3]])), (count, 1))
    tokens = sample(logits_BV, sampling, jax.random.key(0))
    expected = np.asarray(kept)[[2, 0, 3, 1]] / np.sum(kept)
    share = np.bincount(tokens, minlength=4) / count
    assert (share[expected == 0] == 0).all()
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)).all()
