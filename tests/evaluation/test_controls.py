"""Controls, literally: which words the decoder reads in the memory's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.evaluation.controls import CONTROLS, control_view, without_memory
from pic_jax.memory import Memory
from pic_jax.models.decoder import Decoder

TOKENS = np.array([[11, 12, 13, 14, 15, 16], [21, 22, 23, 0, 0, 0], [31, 32, 0, 0, 0, 0], [0] * 6], np.int32)
LENGTHS = np.array([6, 3, 2, 1], np.int32)  # the last row fills the batch up
MEMORY_LENGTHS = np.array([3, 2, 1, 1])


@pytest.fixture(scope='module')
def views(tiny_config, random_params):
    """{control: (words or vectors of each row's valid slots, positions, text_start, special)}."""
    decoder = Decoder(tiny_config())
    base = random_params(decoder)
    embeddings = np.arange(4 * 3 * 32, dtype=np.float32).reshape(4, 3, 32)
    valid = np.arange(3)[None] < MEMORY_LENGTHS[:, None]
    positions = np.array([[1, 5, 9], [2, 6, 0], [3, 0, 0], [4, 0, 0]], np.int32)
    memory = Memory(*map(jnp.asarray, (embeddings, positions, valid, np.array([10, 7, 4, 5], np.int32))))
    other = jax.tree.map(lambda x: x[::-1], memory)
    table = np.asarray(base['embed_tokens']['embedding'])

    def ids(vectors):
        words = [np.flatnonzero((table == vector).all(axis=1)) for vector in vectors]
        return [int(word[0]) if len(word) else None for word in words]

    def view_of(name):
        view = control_view(name, decoder, base, jnp.asarray(TOKENS), jnp.asarray(LENGTHS), memory, other)
        got = jax.tree.map(np.asarray, view.memory)
        rows = [ids(row[ok]) for row, ok in zip(got.embeddings, got.valid, strict=True)]
        places = [row[ok].tolist() for row, ok in zip(got.positions, got.valid, strict=True)]
        return rows, places, got.text_start.tolist(), view.special, got

    return {name: view_of(name) for name in CONTROLS}, other


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('full_context', [[11, 12, 13, 14, 15, 16], [21, 22, 23], [31, 32]]),
        ('truncate_last_k', [[14, 15, 16], [22, 23], [32]]),
        ('truncate_first_k', [[11, 12, 13], [21, 22], [31]]),
        ('no_context', [[], [], []]),
    ],
)
def test_words(views, name, expected):
    rows, places, start, special, _ = views[0][name]
    assert rows[:3] == expected
    assert places[:3] == [list(range(len(row))) for row in expected]
    assert start[:3] == [len(row) for row in expected]
    assert special is False


def test_shuffled_memory_is_the_other_documents_whole(views):
    *_, special, got = views[0]['shuffled_memory']
    for field in ('embeddings', 'positions', 'valid', 'text_start'):
        np.testing.assert_array_equal(getattr(got, field), getattr(views[1], field))
    assert special is True


def test_truncation_keeps_no_more_words_than_there_are(tiny_config, random_params):
    """Short chunks can make k longer than a context of few words is."""
    decoder = Decoder(tiny_config())
    base = random_params(decoder)
    memory = Memory(jnp.zeros((1, 4, 32)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.array([4]))
    for name in ('truncate_last_k', 'truncate_first_k'):
        view = control_view(name, decoder, base, jnp.asarray(TOKENS[1:2]), jnp.asarray(LENGTHS[1:2]), memory, memory)
        assert view.memory.valid.tolist() == [[True, True, True, False]]
        np.testing.assert_array_equal(view.memory.embeddings[0, :3], base['embed_tokens']['embedding'][TOKENS[1, :3]])


def test_a_control_without_memory_needs_none(tiny_config, random_params):
    """A control that looks at an attribute of None fails, and one that hands on what it was given gives None."""
    decoder = Decoder(tiny_config())
    base, found = random_params(decoder), []
    for name in CONTROLS:
        try:
            view = control_view(name, decoder, base, jnp.asarray(TOKENS), jnp.asarray(LENGTHS), None, None)
        except AttributeError:
            continue
        found += [name] if view.memory is not None else []
    assert without_memory(['pic', *CONTROLS]) == found == ['full_context', 'no_context']
