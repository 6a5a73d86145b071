"""The chunk-by-chunk form gives what one masked pass gives, with nothing but the cache."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.compressors import streaming
from pic_jax.compressors.base import check_positions
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.config import MEMORY_SEES_MEMORY, CompressorConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.masks import Layout

TOKENS = np.random.default_rng(1).integers(0, 64, 200)

SPLITS = {
    'at once': lambda n: [n],
    'one by one': lambda n: [1] * n,
    'whole chunks': lambda n: [4] * (n // 4) + [n % 4],
    'ragged': lambda n: [3, 0, 6, 1, n - 10],
    'late': lambda n: [n - 1, 1],
}


def _stream(compressor, base, trainable, tokens, pieces):
    """(Memory, every state passed through) of the tokens fed in pieces of these sizes."""
    assert sum(pieces) == len(tokens)
    states, parts = [streaming.start(compressor)], []
    for end in itertools.accumulate(pieces):
        piece = tokens[states[-1].num_tokens + len(states[-1].pending) : end]
        state, slots = streaming.feed(compressor, base, trainable, states[-1], piece)
        states.append(state)
        parts.append(slots)
    parts.append(streaming.flush(compressor, base, trainable, states[-1]))
    return streaming.to_memory(compressor, parts, len(tokens)), states


def _same(actual, expected):
    for name in ('positions', 'valid', 'text_start'):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
    np.testing.assert_allclose(actual.embeddings, expected.embeddings, rtol=0, atol=1e-5)


def _difference(actual, expected):
    return float(np.abs(np.asarray(actual.embeddings - expected.embeddings)).max())  # jnp.max drops nan on a CPU


def _cases():
    """Every recurrent form x every streamable position; the fast ones have each value of each option."""
    fast = {
        ('chunk', 'own', 'end', 'chunk'),
        ('chunk', 'previous', 'interleaved', 'window'),
        ('chunk+memory', 'own', 'spread', 'window'),
        ('chunk+memory', 'previous', 'interleaved', 'window'),
    }
    for context, memory in itertools.product(('chunk', 'chunk+memory'), MEMORY_SEES_MEMORY):
        positions = [('interleaved', 'window'), ('spread', 'window')]
        if (context, memory) == ('chunk', 'own'):
            positions += [(name, 'chunk') for name in ('interleaved', 'spread', 'end')]
        for case in positions:
            marks = () if (context, memory, *case) in fast else pytest.mark.slow
            yield pytest.param(context, memory, *case, marks=marks, id='-'.join((context, memory, *case)))


@pytest.fixture
def no_full_mask(monkeypatch):
    """A function that makes building the mask of a whole layout an error from now on."""

    def forbid():
        def dense_mask(*_):
            raise AssertionError('the iterative form built the full mask')

        monkeypatch.setattr(Layout, 'dense_mask', dense_mask)

    return forbid


@pytest.mark.parametrize(('context_sees', 'memory_sees_memory', 'positions', 'origin'), list(_cases()))
def test_parallel_equals_iterative(
    model, make_compressor, compress, no_full_mask, context_sees, memory_sees_memory, positions, origin
):
    compressor, trainable = make_compressor(
        'pic', chunk_size=4, context_sees=context_sees, memory_sees_memory=memory_sees_memory, positions=positions,
        position_origin=origin, decoder_positions='spread' if positions == 'spread' else 'sequential',
        projector='linear',
    )  # fmt: skip
    n = 15  # 4 4 4 3
    expected = compress(compressor, model[1], trainable, TOKENS[None, :n], [n])
    assert expected.lengths.tolist() == [8]
    no_full_mask()
    for split in SPLITS.values():
        memory, states = _stream(compressor, model[1], trainable, TOKENS[:n], split(n))
        _same(memory, expected)
        for state in states:
            assert len(state.pending) < 4
            assert (state.past is None) == compressor.config.chunk_local
            assert state.past_count == (0 if compressor.config.chunk_local else state.num_tokens // 2)


@pytest.mark.parametrize(
    ('method', 'options', 'lengths'),
    [
        (
            # Windows of 6: chunks 4 2 | 4 2 | 3.
            'pic',
            dict(chunk_size=4, window=6, context_sees='chunk+memory', memory_sees_memory='previous',
                 positions='interleaved', memory_embeddings='per_window'),
            [15],
        ),
        ('icae', dict(window=4), [15]),
        # Chunks longer than the window: one chunk a window.
        pytest.param('pic', dict(chunk_size=8, window=6), [15], marks=pytest.mark.slow),
        pytest.param('epl', dict(window=4, decoder_positions='spread'), [13], marks=pytest.mark.slow),
        pytest.param(
            'pic', dict(chunk_size=4, window=10, positions='spread', decoder_positions='spread'), [15],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'pic', dict(chunk_size=4, window=8, positions='end', position_origin='chunk'), [15, 16],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'pic', dict(chunk_size=4, memory_embeddings='per_window', memory_sees_memory='previous'), [15, 16],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_parallel_equals_iterative_with_windows_and_slots_of_their_own(
    model, make_compressor, compress, method, options, lengths
):
    compressor, trainable = make_compressor(method, **options)
    for n in lengths:
        expected = compress(compressor, model[1], trainable, TOKENS[None, :n], [n])
        k = int(expected.lengths[0])
        expected = dataclasses.replace(
            expected, **{name: getattr(expected, name)[:, :k] for name in ('embeddings', 'positions', 'valid')}
        )
        for split in SPLITS.values():
            _same(_stream(compressor, model[1], trainable, TOKENS[:n], split(n))[0], expected)


@pytest.mark.parametrize('n', range(1, 10))
def test_every_length_equals_the_padded_pass(model, make_compressor, compress, n):
    compressor, trainable = make_compressor('pic', chunk_size=4, context_sees='chunk+memory')
    expected = compress(compressor, model[1], trainable, TOKENS[None, :10], [n])
    k = -(-n // 2)
    memory, _ = _stream(compressor, model[1], trainable, TOKENS[:n], [n])
    assert memory.embeddings.shape == (1, k, 32)
    assert expected.lengths.tolist() == memory.lengths.tolist() == [k]
    np.testing.assert_allclose(memory.embeddings[0], expected.embeddings[0, :k], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('query', 'key', 'options'),
    [
        # n = 11 in chunks of 4 at ratio 2: tokens 0-3 | 4-7 | 8-10, slots 11 12 | 13 14 | 15 16.
        pytest.param(13, 5, {}, id='memory misses a token of its chunk'),
        pytest.param(13, 8, {}, id='memory sees a token of the next chunk'),
        pytest.param(13, 3, {}, id='memory sees a token of the chunk before'),
        pytest.param(6, 12, {}, id='context misses earlier memory'),
        pytest.param(5, 3, {}, id='context sees the chunk before'),
        pytest.param(14, 11, dict(memory_sees_memory='previous'), id='memory misses earlier memory'),
    ],
)
def test_one_wrong_mask_entry_shows(model, make_compressor, monkeypatch, query, key, options):
    compressor, trainable = make_compressor('pic', chunk_size=4, context_sees='chunk+memory', **options)
    right = Layout.dense_mask
    flips = []

    def wrong(layout, *parts):
        mask = right(layout, *parts).copy()
        mask[query, key] ^= True
        flips.append((query, key))
        return mask

    iterative, _ = _stream(compressor, model[1], trainable, TOKENS[:11], [11])
    tokens, lengths = jnp.asarray(TOKENS[None, :11]), jnp.array([11])
    monkeypatch.setattr(Layout, 'dense_mask', wrong)
    parallel = jax.jit(lambda base: compressor.compress(base, trainable, tokens, lengths))(model[1])
    assert flips
    assert _difference(parallel, iterative) > 1e-4


def test_memory_of_a_finished_chunk_does_not_wait_for_the_end(model, make_compressor):
    compressor, trainable = make_compressor('pic', chunk_size=4, context_sees='chunk+memory')
    state, slots = streaming.feed(compressor, model[1], trainable, streaming.start(compressor), TOKENS[:3])
    assert slots.vectors['embeddings'].shape == (0, 32)
    assert (state.num_tokens, state.pending.tolist()) == (0, TOKENS[:3].tolist())
    state, slots = streaming.feed(compressor, model[1], trainable, state, TOKENS[3:10])
    assert slots.vectors['embeddings'].shape == (4, 32)
    assert slots.starts.tolist() == [0, 2, 4, 6]
    assert (state.num_tokens, state.pending.tolist()) == (8, TOKENS[8:10].tolist())
    rest = streaming.flush(compressor, model[1], trainable, state)
    assert rest.starts.tolist() == [8]
    # The stream is a value: flushing did not end it, and going on does not depend on having flushed.
    again = streaming.flush(compressor, model[1], trainable, state)
    np.testing.assert_array_equal(again.vectors['embeddings'], rest.vectors['embeddings'])
    _, more = streaming.feed(compressor, model[1], trainable, state, TOKENS[10:12])
    whole, _ = _stream(compressor, model[1], trainable, TOKENS[:12], [12])
    np.testing.assert_allclose(more.vectors['embeddings'], whole.embeddings[0, 4:], rtol=0, atol=1e-6)


def test_nothing_pending_flushes_to_nothing(model, make_compressor):
    compressor, trainable = make_compressor('pic', chunk_size=4)
    state, slots = streaming.feed(compressor, model[1], trainable, streaming.start(compressor), TOKENS[:8])
    assert slots.vectors['embeddings'].shape == (4, 32)
    assert streaming.flush(compressor, model[1], trainable, state).vectors['embeddings'].shape == (0, 32)


@pytest.mark.parametrize('token', [64, -1])
def test_ids_beyond_the_vocabulary_are_refused(model, make_compressor, token):
    compressor, trainable = make_compressor('pic', chunk_size=4)
    empty, refusal = streaming.start(compressor), f'token id {token} is not valid: expected 0 to 63'
    with pytest.raises(PicJaxError, match=refusal):
        streaming.feed(compressor, model[1], trainable, empty, np.array([1, token]))
    read = dataclasses.replace(empty, pending=np.array([token], np.int32))  # as from a file
    with pytest.raises(PicJaxError, match=refusal):
        streaming.flush(compressor, model[1], trainable, read)


def test_a_recurrent_state_is_the_memory_and_a_local_one_is_nothing(make_model, make_compressor, compress):
    model = make_model(max_position_embeddings=24)
    # A chunk-local stream with ids of its chunk passes the model's 24 positions with no state at all ...
    compressor, trainable = make_compressor('pic', model, chunk_size=4, position_origin='chunk', positions='end')
    n = 42
    memory, states = _stream(compressor, model[1], trainable, TOKENS[:n], [n // 2, n // 2])
    assert all(state.past is None and len(state.pending) < 4 for state in states)
    assert memory.lengths.tolist() == [21]
    _same(memory, compress(compressor, model[1], trainable, TOKENS[None, :n], [n]))
    # ... where a recurrent one holds its slots, in room that doubles, and forgets them between windows.
    compressor, trainable = make_compressor('pic', model, chunk_size=4, window=16, context_sees='chunk+memory')
    state, shapes = streaming.start(compressor), []
    for i in range(8):
        state, _ = streaming.feed(compressor, model[1], trainable, state, TOKENS[4 * i : 4 * i + 4])
        shapes.append((state.past_count, state.past.k.shape))
    assert [count for count, _ in shapes] == [2, 4, 6, 0] * 2
    assert {shape[:2] + shape[3:] for _, shape in shapes} == {(2, 1, 2, 8)}
    assert max(shape[2] for _, shape in shapes) <= 8


@pytest.mark.parametrize(
    ('method', 'options', 'option'),
    [
        ('icae', {}, 'compressor.window'),
        ('epl', {}, 'compressor.window'),
        ('icae', dict(window=8, window_split='even'), 'compressor.window_split=even'),
        ('pic', dict(window=8, window_split='even'), 'compressor.window_split=even'),
        ('pic', dict(context_sees='causal'), 'compressor.context_sees=causal'),
        ('pic', dict(context_sees='causal', memory_sees_memory='previous'), 'compressor.context_sees=causal'),
        ('pic', dict(positions='end'), 'compressor.positions=end'),
        ('pic', dict(positions='end', context_sees='chunk+memory'), 'compressor.positions=end'),
    ],
)
def test_what_cannot_stream_is_refused_by_option(model, method, options, option):
    with pytest.raises(ConfigError) as caught:
        streaming.start(LLMCompressor(CompressorConfig.preset(method, **options), model[0]))
    assert 'cannot stream' in str(caught.value)
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ('options', 'fits', 'keys'),
    [
        (dict(positions='spread'), 24, ['24', 'compressor.position_origin', 'compressor.window']),
        (dict(positions='interleaved'), 16, ['24', 'compressor.position_origin', 'compressor.window']),
        (
            dict(memory_embeddings='per_window', context_length=12),
            12,
            ['12', 'compressor.window', 'compressor.memory_embeddings'],
        ),
    ],
)
def test_a_stream_that_grows_too_long_is_refused(make_model, make_compressor, options, fits, keys):
    model = make_model(max_position_embeddings=24)
    compressor, trainable = make_compressor('pic', model, chunk_size=4, memory_sees_memory='previous', **options)
    check_positions(compressor.decoder, 24)
    calls = []

    class Fake(LLMCompressor):
        """Counts chunks instead of computing them."""

        def encode(self, base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask, past=None):
            k = embedding_index_Ck.shape[1]
            calls.append(k)
            key_values = jax.tree.map(lambda x: jnp.zeros((*x.shape[:2], tokens_Rn.shape[1] + k, *x.shape[3:])), past)
            return {'embeddings': jnp.zeros((1, k, 32))}, key_values

    compressor = Fake(compressor.config, compressor.decoder)
    state, slots = streaming.feed(compressor, {}, trainable, streaming.start(compressor), TOKENS[:fits])
    assert len(slots.starts) == fits // 2
    with pytest.raises(ConfigError) as caught:
        streaming.feed(compressor, {}, trainable, state, TOKENS[fits : fits + 4])
    assert all(word in str(caught.value) for word in keys)
