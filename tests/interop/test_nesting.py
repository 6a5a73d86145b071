"""Stored contexts of a nested compressor: what the file says, and every way that it can be wrong."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pic_jax.errors import PicJaxError
from pic_jax.interop import context_files, contexts
from pic_jax.interop.nesting import Nesting
from pic_jax.interop.shrink import shrink

# Chunks of 4 at ratio 2; 10 tokens are chunks of 4, 4 and 2, with 2 + 2 + 1 vectors; 3 tokens have 2.
NESTING = Nesting(2, (2, 4), 4, None, 'fixed', '')
TEXT = '{"ratio": 2, "ratios": [2, 4], "chunk_size": 4, "window": null, "window_split": "fixed", "why_not_shrink": ""}'


def stored(**changes) -> contexts.StoredContexts:
    metadata = contexts.ContextMetadata(
        target='example/llama', target_revision='', compressor_sha256='0' * 64, hidden_size=1, layout='',
        template='plain', decoder_prefix=(1,), source_tokens=(10, 3), ids=('a', 'b'), nesting=NESTING,
    )  # fmt: skip
    arrays = dict(
        embeddings=np.array([[[1], [2], [3], [4], [5]], [[6], [7], [0], [0], [0]]], np.float32),
        lengths=np.array([5, 2], np.int32),
        positions=np.array([[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]], np.int32),
        text_start=np.array([5, 2], np.int32),
        special=np.ones(1, np.float32),
        metadata=metadata,
    )
    return contexts.StoredContexts(**(arrays | changes))


def test_a_file_says_version_2_and_reads_back(tmp_path):
    context_files.write(tmp_path / 'file', stored())
    with safetensors.safe_open(tmp_path / 'file', framework='numpy') as file:
        metadata = file.metadata()
    assert metadata['format_version'] == '2'
    assert metadata['nesting'] == TEXT
    assert set(metadata) == {
        'format', 'format_version', 'target', 'target_revision', 'compressor_sha256', 'hidden_size', 'layout',
        'template', 'decoder_prefix', 'source_tokens', 'ids', 'nesting',
    }  # fmt: skip
    again = context_files.read(tmp_path / 'file')
    assert again.metadata == stored().metadata
    context_files.write(tmp_path / 'again', again)
    assert (tmp_path / 'again').read_bytes() == (tmp_path / 'file').read_bytes()
    assert contexts.describe(again)['nesting'] == json.loads(TEXT) | {'ratios': (2, 4)}


def test_shrinking_keeps_the_first_vectors_of_each_chunk_and_numbers_them_again():
    small = shrink(stored(), 4)
    assert small.embeddings[..., 0].tolist() == [[1, 3, 5], [6, 0, 0]]
    assert small.lengths.tolist() == small.text_start.tolist() == [3, 1]
    assert small.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert small.metadata == dataclasses.replace(stored().metadata, nesting=dataclasses.replace(NESTING, ratio=4))
    assert shrink(stored(), 2).embeddings.tolist() == stored().embeddings.tolist()


def test_rows_of_two_ratios_do_not_merge_and_slices_keep_theirs():
    with pytest.raises(PicJaxError, match='part 2: nesting='):
        contexts.merge([stored(), shrink(stored(), 4)])
    ordinary = stored(metadata=dataclasses.replace(stored().metadata, nesting=None))
    for parts in ([stored(), ordinary], [ordinary, stored()]):
        with pytest.raises(PicJaxError, match='part 2: nesting='):
            contexts.merge(parts)
    assert contexts.select(stored(), [1]).metadata.nesting == NESTING
    assert shrink(contexts.select(stored(), [1]), 4).embeddings.tolist() == [[[6]]]


BROKEN = [
    ('none', 'metadata nesting is not valid: expected a JSON object of chunk_size, ratio'),
    ('[2]', 'metadata nesting'),
    ('[' * 100_000, 'metadata nesting'),
    ('{"ratio": 2}', 'metadata nesting'),
    (TEXT[:-1] + ', "more": 1}', 'metadata nesting'),
    (dict(ratios=[4, 2]), r'nesting\.ratios=\(4, 2\).*ascending'),
    (dict(ratios=[0, 2]), r'nesting\.ratios'),
    (dict(ratios=[True, 2]), r'nesting\.ratios'),
    (dict(ratios='24'), r'nesting\.ratios'),
    (dict(ratios=[]), r'nesting\.ratio=2 '),
    (dict(ratio=8), r'nesting\.ratio=8 .*one of \[2, 4\]'),
    (dict(ratio='2'), r"nesting\.ratio='2' "),
    (dict(chunk_size=6), r'nesting\.chunk_size=6 .*multiple'),
    (dict(chunk_size=0), r'nesting\.chunk_size=0 '),
    (dict(window=0), r'nesting\.window=0 '),
    (dict(window=1.5), r'nesting\.window=1.5 '),
    (dict(window_split='odd'), r"nesting\.window_split='odd' .*fixed or even"),
    (dict(window_split=[]), r'nesting\.window_split'),
    (dict(why_not_shrink=None), r'nesting\.why_not_shrink=None'),
    (dict(ratio=4), 'lengths=2 is not what nesting makes of a context of 3 source tokens'),
    (dict(chunk_size=None, window=3), 'lengths=5 is not what nesting makes of a context of 10'),
]


@pytest.mark.parametrize(('changes', 'message'), BROKEN)
def test_broken_nesting_is_refused(tmp_path, changes, message):
    context_files.write(tmp_path / 'file', stored())
    with safetensors.safe_open(tmp_path / 'file', framework='numpy') as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = changes if isinstance(changes, str) else json.dumps(json.loads(TEXT) | changes)
    safetensors.numpy.save_file(tensors, tmp_path / 'raw', metadata=metadata | {'nesting': text})
    with pytest.raises(PicJaxError, match=f'raw: {message}') as caught:
        context_files.read(tmp_path / 'raw')
    assert len(str(caught.value)) < 400


def test_wrong_numbers_cost_no_memory():
    for tokens, nesting in (
        (10**15, NESTING),
        (10**15, Nesting(10**15, (10**15,), None, 1, 'fixed', '')),
        (10**15, Nesting(10**15, (10**15,), None, 1, 'even', '')),
    ):
        with pytest.raises(PicJaxError, match='lengths=5 is not what nesting makes'):
            nesting.check([tokens], np.array([5]), np.zeros((1, 5), np.int32))


def test_contexts_that_may_be_shrunk_have_sequential_ids():
    positions = np.array([[0, 2, 3, 4, 5], [0, 1, 0, 0, 0]], np.int32)
    start = np.array([6, 2], np.int32)
    with pytest.raises(PicJaxError, match='positions are not valid: expected 0, 1, 2'):
        stored(positions=positions, text_start=start)
    refused = dataclasses.replace(NESTING, why_not_shrink='of a reason')
    metadata = dataclasses.replace(stored().metadata, nesting=refused)
    assert stored(positions=positions, text_start=start, metadata=metadata).metadata.nesting == refused
