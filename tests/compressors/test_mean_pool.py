"""Mean pooling: groups of the target's own states."""

import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import CompressorConfig, LoraConfig
from pic_jax.errors import ConfigError
from pic_jax.models.inputs import causal_mask

TOKENS = np.arange(3, 19)[None]


def states(model, tokens_1n, mask_1nn):
    """Last hidden states [n, D] of plain text."""
    decoder, base = model
    words = decoder.apply({'params': base}, tokens_1n, method='embed')
    positions = jnp.arange(tokens_1n.shape[1])[None]
    return np.asarray(decoder.apply({'params': base}, words, positions, mask_1nn)[0][0])


@pytest.mark.parametrize('length', [16, 10, 3, 1])
def test_a_vector_is_the_mean_of_the_true_tokens_of_its_group(model, make_compressor, compress, length):
    compressor, trainable = make_compressor('mean_pool', ratio=4, lora=LoraConfig(0))
    assert trainable.keys() == {'special', 'lora', 'projector'}
    memory = compress(compressor, model[1], trainable, TOKENS, [length])
    hidden = states(model, TOKENS[:, :length], causal_mask(jnp.ones((1, length), bool)))
    expected = [hidden[start : start + 4].mean(0) for start in range(0, length, 4)]
    assert memory.lengths.tolist() == [len(expected)]
    np.testing.assert_allclose(memory.embeddings[0, : len(expected)], expected, atol=1e-5)
    assert not memory.embeddings[0, len(expected) :].any()


def test_in_both_directions_every_token_sees_every_true_token(model, make_compressor, compress):
    compressor, trainable = make_compressor('mean_pool', ratio=4, lora=LoraConfig(0), encoder_attention='bidirectional')
    memory = compress(compressor, model[1], trainable, TOKENS, [10])
    hidden = states(model, TOKENS[:, :10], jnp.ones((1, 10, 10), bool))
    expected = [hidden[start : start + 4].mean(0) for start in range(0, 10, 4)]
    np.testing.assert_allclose(memory.embeddings[0, :3], expected, atol=1e-5)


def test_groups_and_sight_end_at_chunks(model, make_compressor, compress):
    local, trainable = make_compressor(
        'mean_pool', ratio=2, lora=LoraConfig(0), chunk_size=4, context_sees='chunk', position_origin='chunk'
    )
    memory = compress(local, model[1], trainable, TOKENS, [11])
    whole, _ = make_compressor('mean_pool', ratio=2, lora=LoraConfig(0))
    chunks = [compress(whole, model[1], trainable, TOKENS[:, s : s + 4], [min(4, 11 - s)]) for s in (0, 4, 8)]
    expected = np.concatenate([np.asarray(chunk.embeddings)[0, : chunk.lengths[0]] for chunk in chunks])
    assert memory.lengths.tolist() == [6]
    np.testing.assert_allclose(memory.embeddings[0, :6], expected, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(chunk_size=4, context_sees='chunk+memory'), 'context_sees'),
        (dict(memory_sees_memory='previous'), 'memory_sees_memory'),
        (dict(positions='end'), 'positions'),
        (dict(encoder_attention='sideways'), 'encoder_attention'),
    ],
)
def test_options_without_meaning_are_refused(options, said):
    with pytest.raises(ConfigError, match=f'compressor.{said}='):
        CompressorConfig.preset('mean_pool', ratio=2, **options)


def test_a_context_beyond_the_models_positions_is_refused(make_model, make_compressor):
    compressor, _ = make_compressor('mean_pool', make_model(max_position_embeddings=24), context_length=64)
    compressor.check_length(24)
    with pytest.raises(ConfigError, match='needs 25 position ids but the model has 24'):
        compressor.check_length(25)
