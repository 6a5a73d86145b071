"""Layouts against matrices and ids written out by hand from the design's words."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from pic_jax.budget import num_embeddings, slots_in
from pic_jax.compressors.streaming import why_not_streamable
from pic_jax.config import CONTEXT_SEES, MEMORY_EMBEDDINGS, MEMORY_SEES_MEMORY, POSITIONS, CompressorConfig
from pic_jax.errors import ConfigError
from pic_jax.masks import CONTEXT, MEMORY, make_layout

# Chunks of 4 tokens at ratio 2, context of 7: tokens 0-3 | 4-6, then slots 0 1 | 2 3. Rows are queries, columns
# [7 tokens][4 slots]. Each column of the table is one mask.
PIC_MASKS = """
    causal          causal          chunk           chunk           chunk+memory    chunk+memory
    own             previous        own             previous        own             previous
    1.......... 1.......... 1.......... 1.......... 1.......... 1..........
    11......... 11......... 11......... 11......... 11......... 11.........
    111........ 111........ 111........ 111........ 111........ 111........
    1111....... 1111....... 1111....... 1111....... 1111....... 1111.......
    11111...... 11111...... ....1...... ....1...... ....1..11.. ....1..11..
    111111..... 111111..... ....11..... ....11..... ....11.11.. ....11.11..
    1111111.... 1111111.... ....111.... ....111.... ....11111.. ....11111..
    1111...1... 1111...1... 1111...1... 1111...1... 1111...1... 1111...1...
    1111...11.. 1111...11.. 1111...11.. 1111...11.. 1111...11.. 1111...11..
    ....111..1. ....111111. ....111..1. ....111111. ....111..1. ....111111.
    ....111..11 ....1111111 ....111..11 ....1111111 ....111..11 ....1111111
"""

# The whole window is one chunk: 5 tokens at ratio 2, 3 slots.
WHOLE_WINDOW_MASK = """
    1.......
    11......
    111.....
    1111....
    11111...
    111111..
    1111111.
    11111111
"""


def _pic(**options):
    return CompressorConfig.preset('pic', **({'chunk_size': 4, 'ratio': 2, 'context_length': 16} | options))


def _matrix(rows):
    return np.array([[character == '1' for character in row] for row in rows])


def _pic_mask_cases():
    context_sees, memory_sees, *rows = (line.split() for line in PIC_MASKS.strip().splitlines())
    return [
        pytest.param(*names, _matrix([row[column] for row in rows]), id='-'.join(names))
        for column, names in enumerate(zip(context_sees, memory_sees, strict=True))
    ]


def _every_config(**options):
    """Each distinct layout of `pic`, then `icae` and `epl`."""
    for context, memory, embeddings, positions, origin in itertools.product(
        CONTEXT_SEES, MEMORY_SEES_MEMORY, MEMORY_EMBEDDINGS, POSITIONS, ('window', 'chunk')
    ):
        if origin == 'window' or (context, memory) == ('chunk', 'own'):
            yield _pic(
                context_sees=context, memory_sees_memory=memory, memory_embeddings=embeddings, positions=positions,
                position_origin=origin, **options,
            )  # fmt: skip
    for method in ('icae', 'epl'):
        yield CompressorConfig.preset(method, **({'ratio': 2, 'context_length': 16} | options))


def test_the_hand_written_cases_are_all_options():
    assert {case.values[:2] for case in _pic_mask_cases()} == set(itertools.product(CONTEXT_SEES, MEMORY_SEES_MEMORY))


@pytest.mark.parametrize(('context_sees', 'memory_sees_memory', 'expected'), _pic_mask_cases())
def test_pic_mask(context_sees, memory_sees_memory, expected):
    layout = make_layout(_pic(context_sees=context_sees, memory_sees_memory=memory_sees_memory), 7)
    mask = layout.dense_mask()
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
    assert layout.kind.tolist() == [CONTEXT] * 7 + [MEMORY] * 4
    assert layout.chunk.tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize('method', ['icae', 'epl'])
def test_whole_window_mask(method):
    config = CompressorConfig.preset(method, ratio=2, context_length=8)
    np.testing.assert_array_equal(make_layout(config, 5).dense_mask(), _matrix(WHOLE_WINDOW_MASK.split()))


def test_only_attention_options_change_the_mask():
    masks = {}
    for config in _every_config():
        key = (config.method == 'pic', config.context_sees, config.memory_sees_memory)
        masks.setdefault(key, set()).add(make_layout(config, 7).dense_mask().tobytes())
    assert all(len(forms) == 1 for forms in masks.values())
    assert len(masks) == 7


def test_causal_memory_reads_its_own_chunk_only():
    # Gradients cross chunks here through the context, so locality of the direct attention row is what can be said.
    layout = make_layout(_pic(context_sees='causal'), 11)
    rows = layout.dense_mask()[11:, :11]
    assert _matrix(['1111.......'] * 2 + ['....1111...'] * 2 + ['........111'] * 2).tolist() == rows.tolist()


# (positions, origin, length, ids of tokens, ids of the slots that the length pays for); window padded to 7.
PIC_POSITIONS = [
    ('end', 'window', 7, [0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10]),
    ('end', 'window', 5, [0, 1, 2, 3, 4], [5, 6, 7]),
    ('end', 'window', 3, [0, 1, 2], [3, 4]),
    ('end', 'window', 1, [0], [1]),
    ('interleaved', 'window', 7, [0, 1, 2, 3, 6, 7, 8], [4, 5, 10, 11]),
    ('interleaved', 'window', 5, [0, 1, 2, 3, 6], [4, 5, 10]),
    ('interleaved', 'window', 3, [0, 1, 2], [4, 5]),
    ('spread', 'window', 7, [0, 1, 2, 3, 4, 5, 6], [0, 2, 4, 6]),
    ('spread', 'window', 5, [0, 1, 2, 3, 4], [0, 2, 4]),
    ('spread', 'window', 3, [0, 1, 2], [0, 2]),
    ('end', 'chunk', 7, [0, 1, 2, 3, 0, 1, 2], [4, 5, 3, 4]),
    ('end', 'chunk', 5, [0, 1, 2, 3, 0], [4, 5, 1]),
    ('end', 'chunk', 3, [0, 1, 2], [3, 4]),
    ('interleaved', 'chunk', 7, [0, 1, 2, 3, 0, 1, 2], [4, 5, 4, 5]),
    ('interleaved', 'chunk', 5, [0, 1, 2, 3, 0], [4, 5, 4]),
    ('spread', 'chunk', 7, [0, 1, 2, 3, 0, 1, 2], [0, 2, 0, 2]),
    ('spread', 'chunk', 5, [0, 1, 2, 3, 0], [0, 2, 0]),
]


@pytest.mark.parametrize(('positions', 'origin', 'length', 'tokens', 'slots'), PIC_POSITIONS)
def test_pic_positions(positions, origin, length, tokens, slots):
    layout = make_layout(_pic(positions=positions, position_origin=origin), 7)
    lengths = np.array([7, length])
    ids, valid = layout.positions(lengths), layout.valid(lengths)
    assert ids.shape == valid.shape == (2, 11)
    assert np.issubdtype(ids.dtype, np.integer)
    assert valid[0].all()
    assert valid[1].tolist() == [i < len(tokens) for i in range(7)] + [i < len(slots) for i in range(4)]
    assert ids[1][valid[1]].tolist() == tokens + slots


@pytest.mark.parametrize(
    ('method', 'ratio', 'length', 'slots'),
    [
        ('icae', 2, 7, [7, 8, 9, 10]),
        ('icae', 2, 4, [4, 5]),
        ('icae', 3, 7, [7, 8, 9]),
        ('epl', 2, 7, [0, 2, 4, 6]),
        ('epl', 3, 7, [1, 4, 7]),  # the short last group's formula is that of a full one
        ('epl', 4, 6, [1, 5]),
        ('epl', 5, 7, [2, 7]),
    ],
)
def test_whole_window_positions(method, ratio, length, slots):
    layout = make_layout(CompressorConfig.preset(method, ratio=ratio, context_length=8), 7)
    lengths = np.array([length])
    assert layout.positions(lengths)[0][layout.valid(lengths)[0]].tolist() == [*range(length), *slots]


def test_epl_is_icae_with_positions_spread():
    epl = make_layout(CompressorConfig.preset('epl', ratio=3, context_length=8), 7)
    icae = make_layout(CompressorConfig.preset('icae', ratio=3, context_length=8, positions='spread'), 7)
    for name in ('cells', 'position', 'span_start', 'span_size', 'embedding_index'):
        np.testing.assert_array_equal(getattr(epl, name), getattr(icae, name))


def test_spread_stands_in_the_middle_of_each_group():
    layout = make_layout(_pic(chunk_size=6, ratio=3, positions='spread'), 10)
    assert layout.positions(np.array([10]))[0, 10:].tolist() == [1, 4, 7, 10]
    layout = make_layout(_pic(chunk_size=8, ratio=4, positions='spread', position_origin='chunk'), 13)
    assert layout.positions(np.array([13]))[0, 13:].tolist() == [1, 5, 1, 5]


@pytest.mark.parametrize(
    ('positions', 'origin', 'num_tokens', 'expected'),
    [
        ('end', 'window', 7, 11),
        ('end', 'chunk', 7, 6),
        ('end', 'chunk', 3, 5),
        ('interleaved', 'window', 7, 12),
        ('interleaved', 'window', 8, 12),
        ('interleaved', 'chunk', 7, 6),
        ('spread', 'window', 7, 7),
        ('spread', 'chunk', 7, 4),
    ],
)
def test_number_of_positions(positions, origin, num_tokens, expected):
    assert make_layout(_pic(positions=positions, position_origin=origin), num_tokens).num_positions == expected


@pytest.mark.parametrize(
    ('num_tokens', 'chunk_size', 'ratio', 'expected'),
    [
        (1, 4, 2, 1),
        (4, 4, 2, 2),
        (5, 4, 2, 3),
        (7, 4, 2, 4),
        (8, 4, 2, 4),
        (9, 8, 8, 2),
        (7, 6, 3, 3),
        (11, 6, 3, 4),
        (10, 4, 4, 3),
        (3, 8, 1, 3),
    ],
)
def test_budget_is_the_sum_over_chunks(num_tokens, chunk_size, ratio, expected):
    config = _pic(chunk_size=chunk_size, ratio=ratio)
    assert slots_in(config, num_tokens) == make_layout(config, num_tokens).num_slots == expected


@pytest.mark.parametrize(('num_tokens', 'ratio', 'expected'), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (16, 4, 4), (7, 1, 7)])
def test_budget_of_a_whole_window(num_tokens, ratio, expected):
    config = CompressorConfig.preset('icae', ratio=ratio, context_length=16)
    assert slots_in(config, num_tokens) == make_layout(config, num_tokens).num_slots == expected


def test_ragged_windows_pay_for_their_own_tokens_only():
    lengths = np.array([1, 2, 3, 4, 5, 6, 7])
    assert make_layout(_pic(), 7).valid(lengths)[:, 7:].sum(axis=1).tolist() == [1, 1, 2, 2, 3, 3, 4]
    # One chunk of 7 tokens in groups of 3 against chunks of 3: the same sum; of 4 in groups of 2 above: more.
    icae = CompressorConfig.preset('icae', ratio=3, context_length=7)
    assert make_layout(icae, 7).valid(lengths)[:, 7:].sum(axis=1).tolist() == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ('options', 'count', 'index'),
    [
        (dict(memory_embeddings='per_chunk'), 2, [0, 1, 0, 1]),
        (dict(memory_embeddings='per_window'), 8, [0, 1, 2, 3]),
        (dict(memory_embeddings='per_window', window=10), 5, [0, 1, 2, 3]),
        (dict(memory_embeddings='per_chunk', window=10), 2, [0, 1, 0, 1]),
        (dict(memory_embeddings='per_chunk', chunk_size=8, ratio=4), 2, [0, 1]),
    ],
)
def test_learned_vectors_of_pic(options, count, index):
    config = _pic(**options)
    assert num_embeddings(config) == count
    assert make_layout(config, 7).embedding_index.tolist() == index


def test_learned_vectors_of_a_whole_window():
    icae = CompressorConfig.preset('icae', ratio=3, context_length=10)
    assert num_embeddings(icae) == 4
    assert num_embeddings(CompressorConfig.preset('icae', ratio=3, context_length=10, window=6)) == 2
    assert make_layout(icae, 7).embedding_index.tolist() == [0, 1, 2]


def test_no_valid_row_is_fully_masked():
    for config in _every_config():
        for num_tokens in range(1, 14):
            layout = make_layout(config, num_tokens)
            lengths = np.arange(1, num_tokens + 1)
            valid = layout.valid(lengths)
            assert valid.any(axis=1).all()
            seen = (layout.dense_mask()[None] & valid[:, None, :]).any(axis=-1)
            assert seen[valid].all(), config


def test_the_bucket_does_not_matter():
    # What valid positions see, where they stand and which vector they start from depend on the true length only.
    for config in _every_config():
        padded = make_layout(config, 13)
        for length in range(1, 14):
            exact, lengths = make_layout(config, length), np.array([length])
            keep = np.flatnonzero(padded.valid(lengths)[0])
            np.testing.assert_array_equal(padded.dense_mask()[np.ix_(keep, keep)], exact.dense_mask())
            np.testing.assert_array_equal(padded.positions(lengths)[0, keep], exact.positions(lengths)[0])
            np.testing.assert_array_equal(padded.embedding_index[keep[length:] - 13], exact.embedding_index)
            assert exact.valid(lengths).all()


@pytest.mark.parametrize(
    ('config', 'length', 'limit', 'key'),
    [
        (CompressorConfig.preset('icae', context_length=16, ratio=2), 17, 16, 'compressor.context_length'),
        (CompressorConfig.preset('epl', context_length=16, ratio=2), 17, 16, 'compressor.window'),
        (_pic(memory_embeddings='per_window'), 17, 16, 'compressor.context_length'),
        (_pic(memory_embeddings='per_window', window=12), 13, 12, 'compressor.window'),
    ],
)
def test_too_long_for_the_learned_slots_is_refused(config, length, limit, key):
    make_layout(config, limit)
    with pytest.raises(ConfigError) as caught:
        make_layout(config, length)
    for word in (str(length), str(limit), key):
        assert word in str(caught.value)


def test_vectors_per_chunk_reach_any_length():
    assert make_layout(_pic(memory_embeddings='per_chunk', context_length=4), 1000).num_slots == 500


@pytest.mark.parametrize(
    ('config', 'reason'),
    [
        (CompressorConfig.preset('icae'), 'compressor.window'),
        (CompressorConfig.preset('epl'), 'compressor.window'),
        (CompressorConfig.preset('icae', window=8, window_split='even'), 'compressor.window_split=even'),
        (_pic(window=8, window_split='even'), 'compressor.window_split=even'),
        (_pic(context_sees='causal'), 'compressor.context_sees=causal'),
        (_pic(context_sees='causal', window=8), 'compressor.context_sees=causal'),
        (_pic(positions='end'), 'compressor.positions=end'),
        (_pic(positions='end', context_sees='chunk+memory'), 'compressor.positions=end'),
        (_pic(positions='end', position_origin='chunk'), None),
        (_pic(positions='spread'), None),
        (_pic(positions='interleaved', context_sees='chunk+memory', memory_sees_memory='previous'), None),
        (_pic(positions='interleaved', window=8, memory_sees_memory='previous'), None),
        (CompressorConfig.preset('icae', window=8), None),
        (CompressorConfig.preset('epl', window=8), None),
    ],
)
def test_what_cannot_stream_and_why(config, reason):
    answer = why_not_streamable(config)
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize('module', ['pic_jax', 'pic_jax.config', 'pic_jax.masks'])
def test_importing_it_imports_no_jax(module):
    heavy = "{'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'torch'}"
    code = f'import sys, {module}; print(sorted({heavy} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
