"""Shrinking stored contexts against compressing them again, where that is exact and where it is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.compressors.registry import make_compressor as from_config
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop import contexts
from pic_jax.interop.nesting import nesting_of
from pic_jax.interop.shrink import shrink
from pic_jax.masks import make_layout
from pic_jax.nested import at_ratio, kept_slots, trainable_at, why_not_shrinkable

LENGTHS = [29, 16, 11, 1]  # 29 is 3 chunks of 8 and 5 tokens, or 2 windows of 12 and 5
CHUNKS = dict(chunk_size=8, context_length=32)
LOCAL = CHUNKS | dict(position_origin='chunk', context_sees='chunk')
slow = pytest.mark.slow

EXACT = [
    pytest.param('icae', dict(context_length=32), id='icae', marks=slow),
    pytest.param('icae', dict(context_length=32, memory_sees_memory='previous'), id='icae-previous', marks=slow),
    pytest.param('icae', dict(window=12, projector='linear'), id='icae-windows', marks=slow),
    pytest.param('icae', dict(window=12, window_split='even'), id='icae-even-windows'),
    pytest.param('pic', LOCAL | dict(positions='end'), id='pic-end', marks=slow),
    pytest.param('pic', LOCAL | dict(positions='interleaved'), id='pic-interleaved', marks=slow),
    pytest.param('pic', LOCAL | dict(positions='end', memory_embeddings='per_window'), id='pic-per-window', marks=slow),
    pytest.param('pic', LOCAL | dict(positions='end', window=12), id='pic-windows'),
    pytest.param(
        'pic', LOCAL | dict(positions='interleaved', window=12, window_split='even'), id='pic-even', marks=slow
    ),
    pytest.param('kv500x', dict(context_length=32), id='kv500x', marks=slow),
    pytest.param('kv500x', LOCAL | dict(positions='end', memory_embeddings='per_chunk'), id='kv500x-chunks'),
    pytest.param('icformer', dict(context_length=32), id='icformer', marks=slow),
    pytest.param('icformer', LOCAL | dict(positions='end', context_sees='causal'), id='icformer-chunks', marks=slow),
    pytest.param('constant_memory', dict(context_length=32), id='constant'),
    pytest.param('constant_memory', dict(context_length=32, positions='spread'), id='constant-spread'),
]
REFUSED = [
    pytest.param('epl', dict(context_length=32), id='epl', marks=slow),
    pytest.param('pic', CHUNKS, id='pic-spread'),
    pytest.param('pic', LOCAL, id='pic-spread-in-chunks', marks=slow),
    pytest.param('pic', CHUNKS | dict(positions='end'), id='pic-end', marks=slow),
    pytest.param('pic', LOCAL | dict(positions='end', context_sees='chunk+memory', position_origin='window'),
                 id='pic-recurrent', marks=slow),
    pytest.param('pic', CHUNKS | dict(positions='interleaved', context_sees='chunk+memory'),
                 id='pic-chunk+memory', marks=slow),
    pytest.param('pic', CHUNKS | dict(positions='interleaved', memory_sees_memory='previous'),
                 id='pic-previous', marks=slow),
    pytest.param('pic', CHUNKS | dict(positions='interleaved', context_sees='causal'), id='pic-causal', marks=slow),
    pytest.param('icformer', CHUNKS | dict(positions='end'), id='icformer-end', marks=slow),
    pytest.param('mean_pool', dict(context_length=32), id='mean_pool', marks=slow),
]  # fmt: skip


@pytest.fixture(scope='module')
def stored(model, make_compressor, compress):
    """A function (method, options, ratio) -> contexts of LENGTHS as a compressor of ratios 2, 4 and 8 stores them."""

    def make(method, options, ratio) -> contexts.StoredContexts:
        compressor, trainable = make_compressor(method, ratio=2, ratios=(2, 4, 8), **options)
        config = compressor.config
        view, weights = from_config(at_ratio(config, ratio), model[0]), trainable_at(config, trainable, ratio)
        tokens = np.random.default_rng(0).integers(2, 64, (len(LENGTHS), max(LENGTHS)))
        memory = compress(view, model[1], weights, tokens, LENGTHS)
        metadata = contexts.ContextMetadata(
            target='t', target_revision='', compressor_sha256='0' * 64, hidden_size=32, layout='', template='plain',
            decoder_prefix=(), source_tokens=tuple(LENGTHS), ids=tuple('abcd'), nesting=nesting_of(config, ratio),
        )  # fmt: skip
        return contexts.from_memory(memory, np.zeros(32), metadata)

    return make


@pytest.mark.parametrize(('method', 'options'), EXACT)
def test_shrinking_is_compressing_at_the_coarser_ratio(stored, method, options):
    fine, again = stored(method, options, 2), stored(method, options, 4)
    small = shrink(fine, 4)
    assert small.vectors.keys() == again.vectors.keys()
    for name, array in small.vectors.items():
        np.testing.assert_allclose(array, again.vectors[name], rtol=0, atol=1e-5)
        assert np.abs(array).max() > 0.1
        np.testing.assert_array_equal(shrink(small, 8).vectors[name], shrink(fine, 8).vectors[name])
    for field in ('lengths', 'positions', 'text_start'):
        assert getattr(small, field).tolist() == getattr(again, field).tolist()
    assert small.metadata == again.metadata
    assert small.positions.shape[1] < fine.positions.shape[1]


@pytest.mark.parametrize(('method', 'options'), REFUSED)
def test_what_is_refused_does_differ(stored, method, options):
    fine, again = stored(method, options, 2), stored(method, options, 4)
    with pytest.raises(PicJaxError, match=r'shrinking is not compressing here.*pic-jax compress .*--ratio=4') as caught:
        shrink(fine, 4, 'notes.safetensors')
    assert str(caught.value).startswith('notes.safetensors: ')
    assert fine.metadata.nesting.why_not_shrink in str(caught.value)
    allowed = dataclasses.replace(fine.metadata.nesting, why_not_shrink='')
    forced = shrink(dataclasses.replace(fine, metadata=dataclasses.replace(fine.metadata, nesting=allowed)), 4)
    assert forced.lengths.tolist() == again.lengths.tolist()
    assert np.abs(forced.embeddings - again.embeddings).max() > 1e-3


def test_decoder_positions_of_a_spread_memory_would_differ(stored):
    options = dict(context_length=32, positions='spread', decoder_positions='spread')
    fine, again = stored('constant_memory', options, 2), stored('constant_memory', options, 4)
    kept = kept_slots([LENGTHS[0]], 2, 4)
    assert fine.positions[0, kept].tolist() != again.positions[0].tolist()
    with pytest.raises(PicJaxError, match='decoder_positions=spread'):
        shrink(fine, 4)


@pytest.mark.slow
def test_chunks_that_move_as_a_whole_lose_the_tolerance(model, make_compressor):
    """Chunk-local, interleaved, ids from the window: equal in exact arithmetic, and so near the start; not at 4,000."""
    compressor, trainable = make_compressor('pic', ratio=2, ratios=(2, 4), **CHUNKS, positions='interleaved')
    config, tokens = compressor.config, np.random.default_rng(1).integers(2, 64, (16, 8))
    assert 'position_origin=window' in why_not_shrinkable(config)

    @functools.partial(jax.jit, static_argnums=0)
    def slots(ratio, chunk):
        view, weights = from_config(at_ratio(config, ratio), model[0]), trainable_at(config, trainable, ratio)
        layout = make_layout(view.config, 8)
        ids = layout.positions(np.full(16, 8)) + chunk * (8 + 8 // ratio)
        mask = jnp.broadcast_to(layout.dense_mask(), (16, ids.shape[1], ids.shape[1]))
        return view.encode(model[1], weights, tokens, layout.embedding_index[None], ids, mask)[0]['embeddings']

    differences = [np.abs(slots(2, chunk)[:, :2] - slots(4, chunk)).max() for chunk in (1, 500)]
    assert differences[0] < 1e-5 < differences[1]


def test_a_finer_or_unknown_ratio_and_ordinary_contexts_are_refused(stored):
    fine = stored('constant_memory', dict(context_length=32), 2)
    for name, contexts_, ratio in (('a', fine, 3), ('b', shrink(fine, 4), 2), ('c', fine, 16)):
        with pytest.raises(ConfigError, match=f'^{name}: ratio={ratio} is not valid: from ., contexts shrink to'):
            shrink(contexts_, ratio, name)
    ordinary = dataclasses.replace(fine, metadata=dataclasses.replace(fine.metadata, nesting=None))
    with pytest.raises(PicJaxError, match=r'^the contexts: made by a compressor of one ratio.*compressor\.ratios'):
        shrink(ordinary, 4)
