"""The Python API on a trained workdir."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import pic_jax
from pic_jax.api import TrainedCompressor
from pic_jax.config import CompressorConfig, to_mapping
from pic_jax.data.tokenise import encode
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop import context_files
from pic_jax.run import open_run

TEXTS = ['Mara lives in Stonehaven.', 'Wilsten works as a lawyer and never leaves without apples.', 'A']


@pytest.fixture(scope='module')
def trained(trained_workdir):
    return pic_jax.load(trained_workdir)


@pytest.fixture(scope='module')
def memory(trained):
    return trained.compress(TEXTS)


def valid_rows(memory) -> list[np.ndarray]:
    return [np.asarray(row)[: int(n)] for row, n in zip(memory.embeddings, memory.lengths, strict=True)]


def test_load_gives_the_settings_and_moved_weights(trained, trained_workdir, tiny_settings):
    assert trained.run.config.base == tiny_settings['base']
    start = trained.run.init_trainable()
    assert not np.array_equal(start['memory_embeddings'], trained.trainable['memory_embeddings'])
    assert trained.special_name == 'lm'
    assert trained.fingerprint == pic_jax.load(str(trained_workdir)).fingerprint
    assert trained.fingerprint != dataclasses.replace(trained, trainable=start).fingerprint


def test_texts_and_their_tokens_give_the_same_memory(trained, memory):
    rows = [encode(trained.run.tokenizer, text) for text in TEXTS]
    lengths = np.array([len(row) for row in rows])
    assert len(set(lengths)) == 3
    tokens = np.zeros((3, lengths.max()), np.int64)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    padded = np.where(np.arange(lengths.max()) < lengths[:, None], tokens, 600)  # an id that the model has not
    for other in trained.compress(tokens, lengths), trained.compress(jnp.asarray(padded), lengths):
        for field in ('embeddings', 'positions', 'valid', 'text_start'):
            np.testing.assert_array_equal(getattr(other, field), getattr(memory, field))
    whole, rest = np.divmod(lengths, 8)
    assert memory.lengths.tolist() == (2 * whole + -(-rest // 4)).tolist()
    for row, alone in enumerate(valid_rows(memory)):
        np.testing.assert_allclose(valid_rows(trained.compress([TEXTS[row]]))[0], alone, atol=1e-5)


def test_tokens_without_lengths_are_all_real(trained):
    tokens = np.arange(2, 18).reshape(2, 8)
    full, given = trained.compress(tokens), trained.compress(tokens, np.array([8, 8]))
    np.testing.assert_array_equal(full.embeddings, given.embeddings)
    assert full.lengths.tolist() == [2, 2]


@pytest.mark.parametrize('empty', [[], [''], ['text', '']])
def test_an_empty_context_is_refused(trained, empty):
    with pytest.raises(PicJaxError, match='empty'):
        trained.compress(empty)
    with pytest.raises(PicJaxError, match='empty'):
        trained.compress(np.zeros((2, 4), np.int32), np.array([4, 0]))


def test_what_is_neither_texts_nor_tokens_with_lengths_is_refused(trained):
    for call in (trained.compress, lambda text: trained.store(text, ['a'])):
        with pytest.raises(ConfigError, match="contexts='a text' is not valid: expected a list of texts"):
            call('a text')
    with pytest.raises(ConfigError, match=r'lengths=.* is not valid beside texts'):
        trained.compress(TEXTS, np.array([1, 1, 1]))
    with pytest.raises(ConfigError, match=r'contexts hold list: expected texts only'):
        trained.compress([[1, 2, 3]])
    with pytest.raises(ConfigError, match=r'contexts of shape \(1, 2\) and dtype float64 are not valid: expected int'):
        trained.compress(np.array([[1.7, 5.2]]))
    with pytest.raises(PicJaxError, match=r'token id 4294967301 is not valid'):
        trained.compress(np.array([[2**32 + 5]]))
    with pytest.raises(
        ConfigError, match=r'contexts of shape \(4,\) and dtype .* are not valid: expected integers \[B'
    ):
        trained.compress(np.arange(2, 6))
    for lengths in (np.array([4]), np.array(4), np.array([[4, 4]])):
        with pytest.raises(ConfigError, match=r'lengths of shape .* are not valid: expected \(2,\)'):
            trained.compress(np.zeros((2, 4), np.int32), lengths)


def test_what_generates_nothing_is_refused(trained, memory):
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f'max_new_tokens={number} is not valid: expected a positive number'):
            trained.generate(memory, ['Mara', 'Wilsten', 'A'], number)
    with pytest.raises(ConfigError, match="prompts='Mar' is not valid: expected a list of texts"):
        trained.generate(memory, 'Mar')


def test_a_context_past_the_positions_is_refused(trained):
    with pytest.raises(ConfigError, match='the model has 512'):
        trained.compress(np.zeros((1, 513), np.int32))


def test_generate(trained, memory):
    prompts = ['Mara', 'Wilsten works', 'A longer prompt than these']
    answers = trained.generate(memory, prompts, max_new_tokens=6)
    assert answers == trained.generate(memory, prompts, max_new_tokens=6)
    assert len(answers) == 3
    alone = trained.generate(trained.compress(TEXTS[1:2]), prompts[1:2], max_new_tokens=6)
    assert alone == answers[1:2]
    with pytest.raises(ConfigError, match='the model has 512'):
        trained.generate(memory, prompts, max_new_tokens=500)


def test_stored_contexts_give_the_same_memory_and_answers(trained, memory, tmp_path):
    stored = trained.store(TEXTS, ['a', 'b', 'c'])
    context_files.write(tmp_path / 'file.safetensors', stored)
    read = context_files.read(tmp_path / 'file.safetensors')
    assert read.metadata.ids == ('a', 'b', 'c')
    assert read.metadata.source_tokens == tuple(len(encode(trained.run.tokenizer, text)) for text in TEXTS)
    assert read.metadata.decoder_prefix == trained.run.prefix == (0,)
    np.testing.assert_array_equal(read.special, trained.trainable['special']['lm'])
    again = trained.memory_of(read)
    assert again.lengths.tolist() == memory.lengths.tolist()
    np.testing.assert_array_equal(again.text_start, memory.text_start)
    for got, wanted in zip(valid_rows(again), valid_rows(memory), strict=True):
        assert got.tobytes() == wanted.tobytes()
    prompts = ['Mara', 'Wilsten', 'A']
    assert trained.generate(again, prompts, 5) == trained.generate(memory, prompts, 5)


@pytest.mark.slow
def test_keys_and_values_are_stored_and_answer_likewise(trained, tmp_path):
    config = dataclasses.replace(
        trained.run.config, compressor=CompressorConfig.preset('kv500x', ratio=4, context_length=64)
    )
    run = open_run(config)
    other = TrainedCompressor(run, run.init_trainable())
    memory = other.compress(TEXTS)
    context_files.write(tmp_path / 'file.safetensors', other.store(TEXTS, ['a', 'b', 'c']))
    again = other.memory_of(context_files.read(tmp_path / 'file.safetensors'))
    assert again.keys.shape == (3, int(memory.lengths.max()), 2, 2, 8)
    prompts = ['Mara', 'Wilsten works', 'A']
    assert other.generate(again, prompts, 5) == other.generate(memory, prompts, 5)
    shuffled = memory.replace(keys=memory.keys[::-1], values=memory.values[::-1])
    assert other.generate(shuffled, prompts, 5) != other.generate(memory, prompts, 5)


def test_contexts_of_other_weights_are_refused(trained):
    other = dataclasses.replace(trained, trainable=trained.run.init_trainable())
    with pytest.raises(PicJaxError, match='not by this one'):
        trained.memory_of(other.store(TEXTS[:1], ['a']))


def test_load_refuses_a_checkpoint_that_does_not_fit_its_config(trained, trained_workdir, tmp_path):
    copy = shutil.copytree(trained_workdir, tmp_path / 'run')
    values = to_mapping(trained.run.config)
    values['compressor']['ratio'] = 2
    values['compressor']['lora']['rank'] = 0
    (copy / 'config.json').write_text(json.dumps(values))
    with pytest.raises(PicJaxError, match='does not fit this run') as error:
        pic_jax.load(copy)
    assert 'lora' in str(error.value)


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        pic_jax.compres  # noqa: B018
    assert pic_jax.Memory.__name__ == 'Memory'
