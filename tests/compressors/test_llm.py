"""icae, epl and pic: locality by gradients, padding, windows, equalities between presets, what the decoder gets."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.budget import slots_in
from pic_jax.compressors import windows
from pic_jax.compressors.llm import LLMCompressor
from pic_jax.compressors.slots import decoder_memory
from pic_jax.config import (
    CONTEXT_SEES,
    LINEARS,
    MEMORY_EMBEDDINGS,
    MEMORY_SEES_MEMORY,
    POSITIONS,
    CompressorConfig,
    LoraConfig,
)
from pic_jax.errors import ConfigError
from pic_jax.masks import make_layout

TOKENS = np.random.default_rng(0).permutation(64)  # distinct, so that a row of the embedding table is a position


def _close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)


def _difference(actual, expected):
    return float(np.abs(np.asarray(actual - expected)).max())  # jnp.max drops nan on a CPU


def _influence(slots, base):
    """A function like `slots`: largest gradient [M, V] of a random projection of each slot for each word embedding.

    Args:
      slots: function from (parameters, *arguments) to the states [1, M, D] of one row's slots.
    """

    def projected(table_VD, *arguments):
        states_1MD = slots(base | {'embed_tokens': {'embedding': table_VD}}, *arguments)
        return states_1MD[0] @ jax.random.normal(jax.random.key(9), (states_1MD.shape[-1],))

    jacobian = jax.jit(jax.jacrev(projected))
    return lambda *arguments: np.abs(np.asarray(jacobian(base['embed_tokens']['embedding'], *arguments))).max(axis=-1)


# --- Locality -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def encoder_influence(make_model, make_compressor):
    """[M, n] influence of 11 tokens in chunks of 4 on 6 slots, given mask, ids and slot vectors: one compilation.

    Three layers: with context_sees=chunk+memory and memory_sees_memory=own, a chunk reaches a later memory by
    own memory -> later context -> later memory.
    """
    model = make_model(num_hidden_layers=3)
    compressor, trainable = make_compressor('pic', model, chunk_size=4, memory_embeddings='per_window')

    def slots(base, tokens_1n, index_1k, positions_1S, mask_1SS):
        return compressor.encode(base, trainable, tokens_1n, index_1k, positions_1S, mask_1SS)[0]['embeddings']

    influence = _influence(slots, model[1])

    def of(config):
        layout, lengths = make_layout(config, 11), np.array([11])
        mask_1SS = layout.dense_mask()[None] & layout.valid(lengths)[:, None]
        index_1k = layout.embedding_index[None]
        return influence(TOKENS[None, :11], index_1k, layout.positions(lengths), mask_1SS)[:, TOKENS[:11]]

    return of


SLOT_CHUNK, TOKEN_CHUNK = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def _expected_locality(config):
    slot, token = SLOT_CHUNK[:, None], TOKEN_CHUNK[None]
    return token == slot if config.chunk_local else token <= slot


@pytest.mark.parametrize('memory_sees_memory', MEMORY_SEES_MEMORY)
@pytest.mark.parametrize('context_sees', CONTEXT_SEES)
def test_what_reaches_each_memory_block(encoder_influence, context_sees, memory_sees_memory):
    for positions, embeddings, origin in itertools.product(POSITIONS, MEMORY_EMBEDDINGS, ('window', 'chunk')):
        if origin == 'chunk' and (context_sees, memory_sees_memory) != ('chunk', 'own'):
            continue
        config = CompressorConfig.preset(
            'pic', chunk_size=4, ratio=2, context_length=16, context_sees=context_sees, position_origin=origin,
            memory_sees_memory=memory_sees_memory, positions=positions, memory_embeddings=embeddings,
        )  # fmt: skip
        influence, reached = encoder_influence(config), _expected_locality(config)
        assert (influence[~reached] == 0).all(), config
        assert influence[reached].min() > 1e-5, config


def test_compress_reaches_what_the_encoder_reaches(make_model, make_compressor):
    # The whole path, padded: 11 of 13 tokens; nothing reaches memory from the pads.
    model = make_model(num_hidden_layers=3)
    compressor, trainable = make_compressor('pic', model, chunk_size=4, context_sees='chunk+memory', positions='spread')
    tokens, lengths = jnp.asarray(TOKENS[None, :13]), jnp.array([11])
    influence = _influence(lambda base: compressor.compress(base, trainable, tokens, lengths).embeddings, model[1])()
    assert (influence[6:] == 0).all()
    reached = _expected_locality(compressor.config)
    assert (influence[:6, TOKENS[:11]][~reached] == 0).all()
    assert influence[:6, TOKENS[:11]][reached].min() > 1e-5
    assert (np.delete(influence, TOKENS[:11], axis=1) == 0).all()


class _Blank(LLMCompressor):
    """Everything but the encoder."""

    def encode(self, base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask, past=None):
        return {'embeddings': jnp.zeros((tokens_Rn.shape[0], embedding_index_Ck.shape[1], 32))}, None


class _Recorder(_Blank):
    """Keeps what the encoder was given."""

    def encode(self, base, trainable, tokens_Rn, embedding_index_Ck, positions_RS, mask, past=None):
        assert past is None
        given = (tokens_Rn, embedding_index_Ck, positions_RS, mask.dense)
        object.__setattr__(self, 'given', tuple(np.asarray(x) for x in given))
        return super().encode(base, trainable, *given)


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('icae', {}),
        ('epl', {}),
        ('pic', dict(chunk_size=4, positions='end')),
        ('pic', dict(chunk_size=4, context_sees='chunk+memory', positions='interleaved')),
        ('pic', dict(chunk_size=4, memory_sees_memory='previous', memory_embeddings='per_window')),
        ('pic', dict(chunk_size=4, position_origin='chunk', positions='end', window=8)),
    ],
)
def test_compress_gives_the_encoder_its_layout(model, method, options):
    compressor = _Recorder(CompressorConfig.preset(method, ratio=2, context_length=16, **options), model[0])
    lengths = np.array([11, 6, 1])
    compressor.compress(model[1], {}, jnp.tile(jnp.asarray(TOKENS[:11])[None], (3, 1)), jnp.asarray(lengths))
    tokens, index, positions, mask = compressor.given
    if 'window' in options:
        lengths = np.array([8, 3, 6, 0, 1, 0])
    layout = make_layout(compressor.config, options.get('window', 11))
    n, c = layout.num_tokens, tokens.shape[1]
    k, m = layout.num_slots, index.shape[1]
    valid, ids, sees = layout.valid(lengths), layout.positions(lengths), layout.dense_mask()
    chunks = -(-n // c)  # rows of a window
    assert (chunks > 1) == compressor.config.chunk_local
    for row in range(len(tokens)):
        window, chunk = divmod(row, chunks)
        token, slot = chunk * c + np.arange(c), chunk * m + np.arange(m)
        place = np.concatenate([np.where(token < n, token, -1), np.where(slot < k, n + slot, -1)])
        real = (place >= 0) & valid[window, place]
        place = place[real]
        np.testing.assert_array_equal(index[row % len(index)][slot < k], layout.embedding_index[slot[slot < k]])
        np.testing.assert_array_equal(positions[row][real], ids[window, place])
        np.testing.assert_array_equal(mask[row][real][:, real], sees[place][:, place])
        assert not mask[row][real][:, ~real].any()
        assert not np.delete(sees[place] & valid[window], place, axis=1).any()  # the row has all that it may see


# --- Padding ------------------------------------------------------------------------------------------------------

PADDING = [
    ('pic', dict(chunk_size=4, context_sees='chunk+memory', positions='interleaved')),
    ('pic', dict(chunk_size=4, context_sees='causal', positions='end', window=6, window_split='even')),
    ('icae', {}),
    *(
        pytest.param(method, options, marks=pytest.mark.slow)
        for method, options in [
            ('pic', dict(chunk_size=4, memory_sees_memory='previous', memory_embeddings='per_window')),
            ('pic', dict(chunk_size=4, position_origin='chunk', positions='end')),
            ('pic', dict(chunk_size=4, context_sees='chunk+memory', positions='end', memory_sees_memory='previous')),
            ('pic', dict(chunk_size=4, window=6, decoder_positions='spread')),
            ('icae', dict(window=4, window_split='even')),
            ('icae', dict(window=4)),
            ('epl', dict(decoder_positions='spread')),
            ('epl', dict(window=4, window_split='even', decoder_positions='spread')),
        ]
    ),
]


@pytest.mark.parametrize(('method', 'options'), PADDING)
def test_a_padded_ragged_batch_equals_each_row_alone(model, make_compressor, compress, method, options):
    compressor, trainable = make_compressor(method, **options)
    rows = [TOKENS[:11], TOKENS[20:25], TOKENS[30:31]]
    lengths = [len(row) for row in rows]
    padded = np.stack([np.pad(row, (0, 14 - len(row)), constant_values=7) for row in rows])
    batch = compress(compressor, model[1], trainable, padded, lengths)
    for b, row in enumerate(rows[:2] if method == 'icae' else rows):
        alone = compress(compressor, model[1], trainable, row[None], [len(row)])
        k = int(alone.lengths[0])
        assert batch.valid[b].tolist() == [slot < k for slot in range(batch.valid.shape[1])]
        _close(batch.embeddings[b, :k], alone.embeddings[0, :k])
        assert batch.positions[b, :k].tolist() == alone.positions[0, :k].tolist()
        assert batch.text_start[b] == alone.text_start[0]
        assert (batch.embeddings[b, k:] == 0).all()
    assert float(jnp.abs(batch.embeddings[0, 0]).max()) > 0.1
    other = np.where(padded == 7, 50, padded)
    np.testing.assert_array_equal(
        compress(compressor, model[1], trainable, other, lengths).embeddings, batch.embeddings
    )


@pytest.mark.parametrize(
    ('method', 'options', 'expected'),
    [
        ('icae', {}, [6, 3, 1]),
        ('icae', dict(window=5), [7, 3, 1]),  # 5 5 1 | 5
        ('icae', dict(window=5, window_split='even'), [6, 3, 1]),  # 4 4 3 | 5
        ('pic', dict(chunk_size=4), [6, 3, 1]),
        ('pic', dict(chunk_size=4, window=7, ratio=4), [3, 2, 1]),  # 4 3, 4 | 4 1
    ],
)
def test_number_of_vectors(model, compress, method, options, expected):
    config = CompressorConfig.preset(method, **({'ratio': 2, 'context_length': 16} | options))
    memory = compress(_Blank(config, model[0]), model[1], {}, np.zeros((3, 11)), [11, 5, 1])
    assert memory.lengths.tolist() == expected
    assert memory.positions.dtype == memory.text_start.dtype == jnp.int32
    assert memory.valid.dtype == bool


# --- Equalities between presets -----------------------------------------------------------------------------------


def _same_memory(model, compress, one, other, lengths, tolerance=0.0):
    (first, trainable), (second, again) = one, other
    jax.tree.map(np.testing.assert_array_equal, trainable, again)
    tokens = np.stack([TOKENS[:11], TOKENS[20:31]])
    a, b = (compress(which, model[1], trainable, tokens, lengths) for which in (first, second))
    for name in ('positions', 'valid', 'text_start'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    if tolerance:
        _close(a.embeddings, b.embeddings, tolerance)
    else:
        np.testing.assert_array_equal(a.embeddings, b.embeddings)
    assert float(jnp.abs(a.embeddings[0]).max()) > 0.1


def test_pic_with_one_chunk_is_icae_bit_for_bit(model, make_compressor, compress):
    one_chunk = dict(chunk_size=16, context_sees='causal', memory_sees_memory='own', memory_embeddings='per_window')
    pic = make_compressor('pic', positions='end', position_origin='window', **one_chunk)
    _same_memory(model, compress, pic, make_compressor('icae'), [11, 6])


def test_epl_is_icae_with_positions_spread_bit_for_bit(model, make_compressor, compress):
    icae = make_compressor('icae', positions='spread', decoder_positions='spread')
    _same_memory(model, compress, make_compressor('epl', decoder_positions='spread'), icae, [11, 6])


@pytest.mark.parametrize('positions', ['end', pytest.param('spread', marks=pytest.mark.slow)])
def test_chunk_local_pic_with_ids_of_its_chunk_is_icae_with_windows(model, make_compressor, compress, positions):
    decoder_positions = 'spread' if positions == 'spread' else 'sequential'
    shared = dict(positions=positions, decoder_positions=decoder_positions)
    pic = make_compressor('pic', chunk_size=4, position_origin='chunk', **shared)
    _same_memory(model, compress, pic, make_compressor('icae', window=4, **shared), [11, 6], tolerance=2e-6)


# --- Windows ------------------------------------------------------------------------------------------------------


def _split(lengths, S=8, **options):
    config = CompressorConfig.preset('icae', ratio=2, **options)
    tokens = np.tile(np.arange(10, 10 + S)[None], (len(lengths), 1))
    parts = windows.split(config, jnp.asarray(tokens), jnp.asarray(lengths))
    true = [
        [parts.tokens[b, w, : parts.lengths[b, w]].tolist() for w in range(parts.lengths.shape[1])]
        for b in range(len(lengths))
    ]
    return parts, true


def test_fixed_windows():
    parts, true = _split([8, 5, 3, 1], window=3)
    assert parts.tokens.shape == (4, 3, 3)
    assert parts.lengths.tolist() == [[3, 3, 2], [3, 2, 0], [3, 0, 0], [1, 0, 0]]
    assert parts.starts.tolist() == [[0, 3, 6]] * 4
    assert true == [
        [[10, 11, 12], [13, 14, 15], [16, 17]],
        [[10, 11, 12], [13, 14], []],
        [[10, 11, 12], [], []],
        [[10], [], []],
    ]


def test_even_windows():
    parts, true = _split([8, 7, 6, 5, 4, 1], window=4, window_split='even')
    assert parts.tokens.shape == (6, 2, 4)
    assert parts.lengths.tolist() == [[4, 4], [4, 3], [3, 3], [3, 2], [4, 0], [1, 0]]
    assert parts.starts[:4].tolist() == [[0, 4], [0, 4], [0, 3], [0, 3]]
    assert true[3] == [[10, 11, 12], [13, 14]]
    assert true[4] == [[10, 11, 12, 13], []]


@pytest.mark.parametrize('window_split', ['fixed', 'even'])
def test_windows_cover_each_token_once_in_order(window_split):
    S = 9
    for window in (1, 2, 4, 5, 9):
        parts, true = _split(list(range(1, S + 1)), S, window=window, window_split=window_split)
        for b, rows in enumerate(true):
            assert list(itertools.chain(*rows)) == list(range(10, 11 + b))
            assert max(len(row) for row in rows) <= window
        starts = np.asarray(parts.starts)
        assert [[10 + starts[b, w] for w, row in enumerate(rows) if row] for b, rows in enumerate(true)] == [
            [row[0] for row in rows if row] for rows in true
        ]


@pytest.mark.parametrize('options', [{}, {'window': 8}, {'window': 9}])
def test_one_window_is_the_row_itself(options):
    parts, _ = _split([8, 2], **options)
    assert parts.tokens.shape == (2, 1, 8)
    assert parts.lengths.tolist() == [[8], [2]]
    assert parts.starts.tolist() == [[0], [0]]


def test_pack_valid():
    config = CompressorConfig.preset('icae', window=4, window_split='even')
    valid = jnp.array([[True, False, True, True], [False, False, True, False], [True, True, True, True]])
    ids = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    packed, packed_ids, vectors = windows.pack_valid(config, valid, ids, jnp.stack([ids * 1.0, -ids * 1.0], axis=-1))
    assert packed.tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
    assert packed_ids.tolist() == [[1, 3, 4, 0], [7, 0, 0, 0], [9, 10, 11, 12]]
    assert vectors[0].tolist() == [[1, -1], [3, -3], [4, -4], [0, 0]]


@pytest.mark.parametrize(
    ('method', 'options', 'length', 'slot_window', 'token_window'),
    [
        (
            'pic',
            dict(chunk_size=2, context_sees='chunk+memory', memory_sees_memory='previous', window=5, ratio=2),
            9,
            [0, 0, 0, 1, 1],
            [0, 0, 0, 0, 0, 1, 1, 1, 1],
        ),
        pytest.param(
            'icae',
            dict(window=4, window_split='even'),
            9,  # 3 3 3
            [0, 0, 1, 1, 2, 2],
            [0, 0, 0, 1, 1, 1, 2, 2, 2],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nothing_crosses_windows(model, make_compressor, method, options, length, slot_window, token_window):
    compressor, trainable = make_compressor(method, **options)
    tokens, lengths = jnp.asarray(TOKENS[None, :10]), jnp.array([length])
    influence = _influence(lambda base: compressor.compress(base, trainable, tokens, lengths).embeddings, model[1])()
    influence, pads = influence[:, TOKENS[:length]], influence[:, TOKENS[length]]
    same = np.array(slot_window)[:, None] == np.array(token_window)[None]
    assert (pads == 0).all()
    assert (influence[: len(slot_window)][~same] == 0).all()
    assert influence[: len(slot_window)][same].max() > 1e-3
    first_slots = influence[[slot_window.index(w) for w in sorted(set(slot_window))]]
    assert (first_slots.max(axis=1) > 1e-3).all()


# --- What the decoder gets ----------------------------------------------------------------------------------------


@pytest.fixture
def decoder_ids(model, compress):
    """A function from options to the ids of each row's valid slots and of the text."""

    def of(method, lengths, S, **options):
        config = CompressorConfig.preset(method, context_length=16, **options)
        memory = compress(_Blank(config, model[0]), model[1], {}, np.zeros((len(lengths), S)), lengths)
        ids = [memory.positions[b][: int(k)].tolist() for b, k in enumerate(memory.lengths)]
        return ids, memory.text_start.tolist()

    return of


def test_sequential_decoder_positions(decoder_ids):
    ids, text_start = decoder_ids('pic', [11, 5, 1], 12, ratio=2, chunk_size=4)
    assert ids == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0]]
    assert text_start == [6, 3, 1]


def test_spread_decoder_positions(decoder_ids):
    ids, text_start = decoder_ids('pic', [11, 5, 1], 12, ratio=4, chunk_size=4, decoder_positions='spread')
    assert ids == [[1, 5, 9], [1, 5], [1]]
    # The second and third contexts end before their last slot's id: the text follows the slot.
    assert text_start == [11, 6, 2]


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('epl', dict(window=5)),
        ('pic', dict(chunk_size=4, window=5)),
        # The ids in the decoder are places in the context, whatever ids the encoder counted in.
        ('pic', dict(chunk_size=4, window=5, position_origin='chunk')),
    ],
)
def test_spread_decoder_positions_of_windows_are_places_in_the_context(decoder_ids, method, options):
    ids, text_start = decoder_ids(method, [12, 7], 12, ratio=4, decoder_positions='spread', **options)
    # Groups start at 0 4 | 5 9 | 10, and 0 4 | 5.
    assert ids == [[1, 5, 6, 10, 11], [1, 5, 6]]
    assert text_start == [12, 7]


def test_decoder_memory_masks_ids_of_padding():
    config = CompressorConfig.preset('icae', ratio=4)
    valid, vectors = jnp.array([[True, True, False]]), {'embeddings': jnp.zeros((1, 3, 2))}
    memory = decoder_memory(config, vectors, jnp.array([[0, 4, 0]]), valid, jnp.array([6]))
    assert memory.positions.tolist() == [[0, 1, 0]]
    assert memory.text_start.tolist() == [2]
    spread = CompressorConfig.preset('epl', ratio=4, decoder_positions='spread')
    memory = decoder_memory(spread, vectors, jnp.array([[0, 4, 0]]), valid, jnp.array([7]))
    assert memory.positions.tolist() == [[1, 5, 0]]
    assert memory.text_start.tolist() == [7]
    assert memory.lengths.tolist() == [2]


# --- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'options', 'fits', 'keys'),
    [
        # The model has 24 positions; icae's slots stand after its tokens.
        ('icae', dict(context_length=64), 16, ['24', 'compressor.window', 'compressor.position_origin']),
        ('epl', dict(context_length=64), 24, ['24', 'compressor.window']),
        ('pic', dict(chunk_size=8), 24, ['24', 'compressor.window', 'compressor.position_origin']),
        ('pic', dict(chunk_size=8, positions='end'), 16, ['24', 'compressor.window']),
        ('pic', dict(chunk_size=8, positions='interleaved'), 16, ['24', 'compressor.window']),
        # Learned slots end before the positions do.
        ('icae', dict(context_length=10), 10, ['10', 'compressor.window', 'compressor.context_length']),
        (
            'pic',
            dict(chunk_size=4, context_length=10, memory_embeddings='per_window'),
            10,
            ['compressor.context_length'],
        ),
    ],
)
def test_too_long_a_context_is_refused(make_model, method, options, fits, keys):
    decoder, base = make_model(max_position_embeddings=24)
    compressor = LLMCompressor(CompressorConfig.preset(method, ratio=2, **options), decoder)
    trainable = jax.eval_shape(compressor.init, jax.random.key(0), base)

    def abstract(length):
        tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
        return jax.eval_shape(compressor.compress, base, trainable, tokens, jax.ShapeDtypeStruct((2,), jnp.int32))

    assert abstract(fits).embeddings.shape[1] == slots_in(compressor.config, fits)
    with pytest.raises(ConfigError) as caught:
        abstract(fits + 1)
    assert all(word in str(caught.value) for word in [str(fits + 1), *keys][1:])


@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('icae', dict(window=8)),
        ('epl', dict(window=24)),
        ('pic', dict(chunk_size=8, window=16)),
        ('pic', dict(chunk_size=8, position_origin='chunk')),
        ('pic', dict(chunk_size=8, window=16, memory_embeddings='per_window', window_split='even')),
    ],
)
def test_windows_and_chunk_ids_reach_past_the_positions_of_the_model(make_model, method, options):
    decoder, base = make_model(max_position_embeddings=24)
    compressor = LLMCompressor(CompressorConfig.preset(method, ratio=2, context_length=16, **options), decoder)
    trainable = jax.eval_shape(compressor.init, jax.random.key(0), base)
    tokens, lengths = jax.ShapeDtypeStruct((1, 96), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    memory = jax.eval_shape(compressor.compress, base, trainable, tokens, lengths)
    assert memory.embeddings.shape == (1, 48, 32)


# --- Trained parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('method', 'options', 'shapes'),
    [
        ('icae', {}, {'memory_embeddings': (8, 32)}),
        ('pic', dict(chunk_size=4), {'memory_embeddings': (2, 32)}),
        (
            'pic',
            dict(chunk_size=4, projector='linear', memory_embeddings='per_window'),
            {'memory_embeddings': (8, 32), 'projector.kernel': (32, 32)},
        ),
        (
            'pic',
            dict(chunk_size=4, projector='mlp', lora=LoraConfig(2, 4.0, ('q_proj', 'up_proj'))),
            {
                'memory_embeddings': (2, 32),
                'projector.skip': (32, 32),
                'projector.up': (32, 128),
                'projector.down': (128, 32),
                'lora.layers.self_attn.q_proj.lora_A': (2, 32, 2),
                'lora.layers.self_attn.q_proj.lora_B': (2, 2, 32),
                'lora.layers.mlp.up_proj.lora_A': (2, 32, 2),
                'lora.layers.mlp.up_proj.lora_B': (2, 2, 48),
            },
        ),
    ],
)
def test_trainable_parameters(model, method, options, shapes):
    config = CompressorConfig.preset(method, **({'ratio': 2, 'context_length': 16, 'lora': LoraConfig(0)} | options))
    trainable = jax.eval_shape(LLMCompressor(config, model[0]).init, jax.random.key(0), model[1])
    leaves = jax.tree_util.tree_leaves_with_path(trainable)
    assert {'.'.join(k.key for k in path): leaf.shape for path, leaf in leaves} == shapes | {
        f'special.{name}': (32,) for name in ('ae', 'lm', 'ft')
    }
    assert {leaf.dtype for _, leaf in leaves} == {jnp.dtype('float32')}


def test_learned_vectors_start_like_words(model):
    decoder, base = model
    table = base['embed_tokens']['embedding'] * jnp.linspace(0.5, 3, 32)[None] + jnp.linspace(-1, 1, 32)[None]
    config = CompressorConfig.preset('icae', ratio=1, context_length=4000)
    trainable = LLMCompressor(config, decoder).init(jax.random.key(3), base | {'embed_tokens': {'embedding': table}})
    vectors = trainable['memory_embeddings']
    assert vectors.shape == (4000, 32)
    _close(vectors.mean(axis=0) / table.std(axis=0), table.mean(axis=0) / table.std(axis=0), 0.1)
    _close(vectors.std(axis=0) / table.std(axis=0), np.ones(32), 0.1)
    special = list(trainable['special'].values())
    assert min(_difference(a, b) for a, b in itertools.combinations(special, 2)) > 0.1


def _icae(decoder, **options):
    return LLMCompressor(CompressorConfig.preset('icae', ratio=2, context_length=16, **options), decoder)


@pytest.fixture(scope='module')
def plain(model, compress):
    """Memory of one row by a compressor without adapter and projector, just initialised."""
    compressor = _icae(model[0], lora=LoraConfig(0))
    trainable = compressor.init(jax.random.key(1), model[1])
    assert trainable['lora'] == trainable['projector'] == {}
    return compress(compressor, model[1], trainable, TOKENS[None, :11], [11]).embeddings


@pytest.mark.parametrize(('projector', 'last'), [('linear', 'kernel'), ('mlp', 'down')])
def test_a_projector_starts_as_a_scaling_to_the_size_of_words(model, compress, plain, projector, last):
    compressor = _icae(model[0], lora=LoraConfig(0), projector=projector)
    trainable = compressor.init(jax.random.key(1), model[1])
    run = lambda: compress(compressor, model[1], trainable, TOKENS[None, :11], [11]).embeddings
    words, norm = model[1]['embed_tokens']['embedding'], model[1]['norm']['weight']
    plain = plain * float(np.sqrt(np.mean(np.square(words)) / np.mean(np.square(norm))))
    _close(run(), plain, 1e-6)
    trainable['projector'][last] += 0.1
    assert _difference(run(), plain) > 1e-2


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(model, compress, plain):
    compressor = _icae(model[0], lora=LoraConfig(rank=2, alpha=4.0, targets=LINEARS))
    trainable = compressor.init(jax.random.key(1), model[1])
    run = lambda trainable: compress(compressor, model[1], trainable, TOKENS[None, :11], [11]).embeddings
    _close(run(trainable), plain, 1e-6)

    # The B of each kind of layer moves the memory by itself.
    for group, name in [('self_attn', 'q_proj'), ('self_attn', 'o_proj'), ('mlp', 'down_proj')]:
        layer = trainable['lora']['layers'][group][name]
        moved = layer | {'lora_B': 0.1 * jax.random.normal(jax.random.key(2), layer['lora_B'].shape)}
        groups = trainable['lora']['layers'] | {group: trainable['lora']['layers'][group] | {name: moved}}
        assert _difference(run(trainable | {'lora': {'layers': groups}}), plain) > 1e-3


def test_the_adapter_is_scaled_by_alpha_over_rank(model, make_compressor, compress):
    compressor, trainable = make_compressor('icae')  # alpha / rank = 1.5
    other = dataclasses.replace(compressor, config=dataclasses.replace(compressor.config, lora=LoraConfig(2, 2.0)))
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 1.5 * leaf if path[-1].key == 'lora_B' else leaf, trainable
    )
    tokens = TOKENS[None, :11]
    expected = compress(compressor, model[1], trainable, tokens, [11]).embeddings
    _close(compress(other, model[1], scaled, tokens, [11]).embeddings, expected, 1e-6)
    assert _difference(compress(other, model[1], trainable, tokens, [11]).embeddings, expected) > 1e-3
