"""kv500x: keys and values of the slots, and a decoder that attends to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.compressors import streaming
from pic_jax.config import CompressorConfig, ObjectiveConfig, RunConfig
from pic_jax.errors import ConfigError
from pic_jax.memory import Memory
from pic_jax.models.generation import generate
from pic_jax.models.inputs import causal_mask, from_memory, read, word_memory

L, K, H = 2, 2, 8
TOKENS = np.random.default_rng(3).integers(2, 64, (2, 12)).astype(np.int32)
LENGTHS = np.array([12, 7], np.int32)


@pytest.fixture(scope='module')
def words(model):
    """Two contexts as word embeddings, and as the keys and values of the frozen decoder that read them."""
    decoder, base = model
    embedded = word_memory(decoder, base, TOKENS, LENGTHS)
    mask = causal_mask(embedded.valid)
    (_, cache), captured = decoder.apply(
        {'params': base}, embedded.embeddings, embedded.positions, mask, mutable=['unrotated']
    )
    keys = captured['unrotated']['layers']['self_attn']['keys']
    keys_BMLKH, values_BMLKH = (jnp.moveaxis(x, 0, 2) for x in (keys, cache.v))
    return embedded, embedded.replace(embeddings=None, keys=keys_BMLKH, values=values_BMLKH)


def test_the_shapes_are_those_of_every_layer(model, make_compressor, compress):
    compressor, trainable = make_compressor('kv500x', ratio=4)
    assert trainable.keys() == {'memory_embeddings', 'special', 'lora'}
    memory = compress(compressor, model[1], trainable, TOKENS, LENGTHS)
    assert memory.embeddings is None
    assert memory.keys.shape == memory.values.shape == (2, 3, L, K, H)
    assert memory.lengths.tolist() == [3, 2]
    assert memory.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert memory.text_start.tolist() == [3, 2]
    assert not memory.keys[1, 2].any()
    assert not memory.values[1, 2].any()


def test_keys_of_words_read_like_the_words(model, words):
    """What a decoder computed itself, given back to it as memory, changes nothing: keys are turned to their places."""
    decoder, base = model
    text_BT, lengths_B = TOKENS[:, :5], np.array([5, 3], np.int32)
    special_D = jnp.linspace(-1.0, 1.0, 32)
    hidden = {}
    for name, memory in zip(('words', 'keys'), words, strict=True):
        inputs = from_memory(decoder, base, memory, special_D, (), text_BT, lengths_B)
        hidden[name] = read(decoder, base, inputs)[0]
        hidden[name + '_written'] = generate(decoder, base, inputs, 8)[0]
    expected = hidden['words'][:, 12:]  # behind the words
    real_BT = np.arange(6)[None] <= lengths_B[:, None]
    np.testing.assert_allclose(hidden['keys'][real_BT], expected[real_BT], atol=2e-5)
    np.testing.assert_array_equal(hidden['keys_written'], hidden['words_written'])


def test_text_before_the_memory_does_not_see_it(model, words):
    decoder, base = model
    keys = words[1]
    text_BT, lengths_B = TOKENS[:, :5], np.array([5, 3], np.int32)

    def hidden(memory: Memory):
        return read(decoder, base, from_memory(decoder, base, memory, None, (7, 9), text_BT, lengths_B))[0]

    changed = hidden(keys.replace(values=keys.values + 1.0))
    before = hidden(keys)
    np.testing.assert_array_equal(changed[:, :2], before[:, :2])
    assert np.abs(changed - before)[:, 2:].max(axis=-1).min() > 1e-3
    padding = keys.replace(keys=keys.keys.at[1, 7:].set(50.0), values=keys.values.at[1, 7:].set(50.0))
    np.testing.assert_array_equal(hidden(padding)[:, :5], before[:, :5])


@pytest.mark.slow
def test_positions_are_decided_when_it_is_read(model, words):
    """Only the distance between text and memory matters to attention, so both may move."""
    decoder, base = model
    keys = words[1]
    text_BT, lengths_B = TOKENS[:, :5], np.array([5, 5], np.int32)

    def hidden(memory: Memory):
        return read(decoder, base, from_memory(decoder, base, memory, None, (), text_BT, lengths_B))[0]

    moved = keys.replace(positions=keys.positions + 20, text_start=keys.text_start + 20)
    np.testing.assert_allclose(hidden(moved), hidden(keys), atol=1e-4)
    apart = keys.replace(text_start=keys.text_start + 20)
    assert np.abs(hidden(apart) - hidden(keys)).max() > 1e-2


def test_local_masks_and_streams(model, make_compressor, compress):
    local = dict(chunk_size=4, context_sees='chunk', memory_embeddings='per_chunk', positions='spread')
    compressor, trainable = make_compressor('kv500x', ratio=2, **local)
    whole = compress(compressor, model[1], trainable, TOKENS[:1, :11], [11])
    state, parts = streaming.start(compressor), []
    for tokens in np.split(TOKENS[0, :11], [3, 9]):
        state, slots = streaming.feed(compressor, model[1], trainable, state, tokens)
        parts.append(slots)
    parts.append(streaming.flush(compressor, model[1], trainable, state))
    streamed = streaming.to_memory(compressor, parts, 11)
    assert streamed.keys.shape == (1, 6, L, K, H)
    for name, array in streamed.vectors.items():
        np.testing.assert_allclose(array, whole.vectors[name][:, :6], atol=1e-5)
    other = TOKENS[:1, :11].copy()
    other[0, 5] += 1
    changed = compress(compressor, model[1], trainable, other, [11])
    moved = np.abs(changed.values - whole.values).max(axis=(0, 2, 3, 4)) > 1e-6
    assert moved[:6].tolist() == [False, False, True, True, False, False]


def test_what_it_cannot_have_is_refused():
    with pytest.raises(ConfigError, match=r'compressor\.projector'):
        CompressorConfig.preset('kv500x', projector='linear')
    with pytest.raises(ConfigError, match=r'objective\.words'):
        RunConfig(compressor=CompressorConfig.preset('kv500x'), objective=ObjectiveConfig(words=1.0))


@pytest.mark.slow
def test_gradients_reach_every_slot(model, make_compressor):
    compressor, trainable = make_compressor('kv500x', ratio=4)
    decoder, base = model

    def loss(vectors):
        memory = compressor.compress(base, trainable, TOKENS, LENGTHS).replace(**vectors)
        inputs = from_memory(decoder, base, memory, None, (1,), TOKENS[:, :4], np.array([4, 4]))
        return jnp.sum(read(decoder, base, inputs)[0][:, -1] ** 3)

    start = compressor.compress(base, trainable, TOKENS, LENGTHS).vectors
    grads = jax.jit(jax.grad(loss))(start)
    for name, grad in grads.items():
        reached = np.abs(grad).max(axis=(3, 4)) > 1e-9
        assert reached[0].all(), name
        assert reached[1, :2].all(), name
        assert not reached[1, 2].any(), name
