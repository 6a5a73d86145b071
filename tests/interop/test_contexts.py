"""The stored-contexts format: literal golden file, round trips, and every way a file can be wrong."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pic_jax.errors import PicJaxError
from pic_jax.interop import context_files, contexts
from pic_jax.memory import Memory

GOLDEN = Path(__file__).with_name('golden_contexts.safetensors')
SHA = '0123456789abcdef' * 4
METADATA = contexts.ContextMetadata(
    target='example/llama',
    target_revision='main',
    compressor_sha256=SHA,
    hidden_size=4,
    layout='pic ratio=8 chunk_size=24',
    template='plain',
    decoder_prefix=(1,),
    source_tokens=(24, 12),
    ids=('a', 'b é'),
)
ARRAYS = {
    'embeddings': np.array(
        [
            [[0.5, -1.0, 2.0, 0.25], [1.0, 1.5, -2.5, 3.0], [0.0, 0.0, 0.0, -0.125]],
            [[4.0, -4.0, 0.75, 1.0], [8.0, 0.0, -0.5, 2.0], [0.0, 0.0, 0.0, 0.0]],
        ],
        np.float32,
    ),
    'lengths': np.array([3, 2], np.int32),
    'positions': np.array([[3, 11, 19], [3, 11, 0]], np.int32),
    'text_start': np.array([24, 12], np.int32),
    'special': np.array([1.0, 2.0, 3.0, 4.0], np.float32),
}


def stored(**changes) -> contexts.StoredContexts:
    return contexts.StoredContexts(**(ARRAYS | {'metadata': METADATA} | changes))


def random_contexts(count: int, k: int, dtype=np.float32, seed: int = 0) -> contexts.StoredContexts:
    rng = np.random.default_rng(seed)
    lengths = np.append(rng.integers(1, k + 1, count - 1), k).astype(np.int32)
    valid = np.arange(k) < lengths[:, None]
    return stored(
        embeddings=np.where(valid[..., None], rng.normal(size=(count, k, 4)), 0).astype(dtype),
        lengths=lengths,
        positions=np.where(valid, np.arange(k) * 2, 0).astype(np.int32),
        text_start=np.full(count, 2 * k, np.int32),
        special=ARRAYS['special'].astype(dtype),
        metadata=dataclasses.replace(
            METADATA, source_tokens=tuple(range(50, 50 + count)), ids=tuple(f'{seed}/{i}' for i in range(count))
        ),
    )


def key_values(count: int, k: int, seed: int = 0) -> contexts.StoredContexts:
    """The same as keys and values of 3 layers, 2 heads of 4 numbers: [N, 3, k, 2, 4]."""
    plain, rng = random_contexts(count, k, seed=seed), np.random.default_rng(seed)
    valid = (np.arange(k) < plain.lengths[:, None])[:, None, :, None, None]
    keys, values = (np.where(valid, rng.normal(size=(count, 3, k, 2, 4)), 0).astype(np.float32) for _ in range(2))
    return dataclasses.replace(plain, embeddings=None, keys=keys, values=values)


def assert_same(a: contexts.StoredContexts, b: contexts.StoredContexts) -> None:
    assert a.metadata == b.metadata
    assert a.vectors.keys() == b.vectors.keys()
    for name in (*a.vectors, *(name for name in ARRAYS if name != 'embeddings')):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left.astype(np.float64), right.astype(np.float64), err_msg=name)


def test_golden_file_reads_as_literal_values_and_rewrites_to_the_same_bytes(tmp_path):
    golden = context_files.read(GOLDEN)
    assert_same(golden, stored())
    context_files.write(tmp_path / 'again', golden)
    assert (tmp_path / 'again').read_bytes() == GOLDEN.read_bytes()
    with safetensors.safe_open(GOLDEN, framework='numpy') as file:
        assert file.metadata() == {
            'format': 'pic-context', 'format_version': '1', 'target': 'example/llama', 'target_revision': 'main',
            'compressor_sha256': SHA, 'hidden_size': '4', 'layout': 'pic ratio=8 chunk_size=24', 'template': 'plain',
            'decoder_prefix': '[1]', 'source_tokens': '[24, 12]', 'ids': '["a", "b \\u00e9"]',
        }  # fmt: skip


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_write_read_round_trip_in_both_dtypes(tmp_path, dtype):
    before = random_contexts(5, 7, dtype)
    context_files.write(tmp_path / 'file', before)
    assert_same(context_files.read(tmp_path / 'file'), before)


def test_bfloat16_reads_in_a_process_that_imports_nothing_else_and_without_jax(tmp_path):
    context_files.write(tmp_path / 'file', random_contexts(2, 3, ml_dtypes.bfloat16))
    code = (
        'import sys; from pic_jax.interop import context_files; stored = context_files.read(sys.argv[1]); '
        'print(stored.embeddings.dtype, "jax" in sys.modules)'
    )
    result = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'file')], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ['bfloat16', 'False']


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_memory_round_trip_drops_and_zeroes_padding(dtype):
    memory = Memory(
        embeddings=jnp.arange(2 * 5 * 4, dtype=dtype).reshape(2, 5, 4) + 1,
        positions=jnp.tile(jnp.arange(5, dtype=jnp.int32), (2, 1)),
        valid=jnp.array([[True, True, False, False, False], [True, True, True, False, False]]),
        text_start=jnp.array([2, 3], jnp.int32),
    )
    made = contexts.from_memory(memory, jnp.arange(4, dtype=jnp.float32), METADATA)
    assert made.embeddings.shape == (2, 3, 4)
    assert made.lengths.tolist() == [2, 3]
    assert made.positions.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert not made.embeddings[0, 2].any()
    assert made.special.dtype == made.embeddings.dtype
    back = contexts.to_memory(made)
    assert back.embeddings.dtype == dtype
    valid = np.asarray(memory.valid)[:, :3]
    np.testing.assert_array_equal(back.valid, valid)
    np.testing.assert_array_equal(back.embeddings[valid], memory.embeddings[:, :3][valid])
    np.testing.assert_array_equal(back.positions[valid], memory.positions[:, :3][valid])
    np.testing.assert_array_equal(back.text_start, memory.text_start)


def test_from_memory_refuses_a_hole():
    memory = contexts.to_memory(stored()).replace(valid=jnp.array([[True, True, True], [True, False, True]]))
    with pytest.raises(PicJaxError, match=r'valid\[1\].*before False'):
        contexts.from_memory(memory, ARRAYS['special'], METADATA)


def changed(name: str, index: tuple, value) -> dict:
    array = ARRAYS[name].copy()
    array[index] = value
    return {name: array}


BROKEN_ARRAYS = [
    (changed('embeddings', (0, 1, 2), np.nan), r'embeddings\[0\].*finite'),
    (changed('embeddings', (1, 0, 0), np.inf), r'embeddings\[1\].*finite'),
    (changed('embeddings', (1, 2, 3), 1.0), r'embeddings\[1\].*zero in padding'),
    (changed('special', (3,), -np.inf), 'special.*finite'),
    (changed('lengths', (1,), 0), r'lengths\[1\]=0 .*1 to k=3'),
    (changed('lengths', (0,), 4), r'lengths\[0\]=4 .*1 to k=3'),
    (changed('positions', (0, 0), -1), r'positions\[0\].*at least 0'),
    (changed('positions', (0, 1), 3), r'positions\[0\].*rise strictly'),
    (changed('positions', (0, 2), 4), r'positions\[0\].*rise strictly'),
    (changed('positions', (0, 2), -(2**31)), r'positions\[0\].*at least 0'),  # its difference wraps to above 0
    (changed('positions', (1, 2), 12), r'positions\[1\].*zero in padding'),
    (changed('text_start', (0,), 19), r'text_start\[0\].*above the last position'),
    (changed('text_start', (1,), -5), r'text_start\[1\].*above the last position'),
    ({'lengths': ARRAYS['lengths'].astype(np.int64)}, 'dtype of lengths.*(int32|I32)'),
    ({'embeddings': ARRAYS['embeddings'].astype(np.float16)}, 'dtype of embeddings.*(float32|F32)'),
    ({'special': ARRAYS['special'].astype(ml_dtypes.bfloat16)}, 'dtype of special.*dtype of embeddings'),
    ({'special': np.ones(5, np.float32)}, r'shape of special=\(5,\).*hidden_size=4'),
    ({'embeddings': np.ones((2, 3, 5), np.float32)}, r'shape of embeddings=\(2, 3, 5\).*hidden_size=4'),
    ({'embeddings': np.ones((2, 12), np.float32)}, r'shape of embeddings=\(2, 12\).*\[N, k, D\]'),
    ({'embeddings': np.ones((2, 0, 4), np.float32)}, r'shape of embeddings=\(2, 0, 4\)'),
    ({'positions': np.ones((2, 4), np.int32)}, r'shape of positions=\(2, 4\).*\(2, 3\)'),
    ({'text_start': np.full(3, 30, np.int32)}, r'shape of text_start=\(3,\).*\(2,\)'),
]


@pytest.mark.parametrize(('changes', 'message'), BROKEN_ARRAYS)
def test_broken_tensors_are_refused_in_memory_and_in_a_file(tmp_path, changes, message):
    with pytest.raises(PicJaxError, match=message):
        stored(**changes)
    path = save_raw(tmp_path, ARRAYS | changes)
    with pytest.raises(PicJaxError, match=f'^{path}: {message}'):
        context_files.read(path)


def golden_metadata() -> dict[str, str]:
    with safetensors.safe_open(GOLDEN, framework='numpy') as file:
        return file.metadata()


def save_raw(folder: Path, tensors: dict, **metadata: str | None) -> Path:
    """A file as another program could write it; metadata given as None is left out."""
    values = {key: value for key, value in (golden_metadata() | metadata).items() if value is not None}
    safetensors.numpy.save_file(tensors, folder / 'raw', metadata=values)
    return folder / 'raw'


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({'format': None}, "metadata format=None .*'pic-context'"),
        ({'format': 'pt'}, "metadata format='pt'"),
        ({'format_version': '3'}, "metadata format_version='3' .*'1' or '2'"),
        ({'format_version': '2'}, r"missing \['nesting'\], unknown \[\]"),
        ({'ids': None}, r"missing \['ids'\], unknown \[\]"),
        ({'created': 'today'}, r"unknown \['created'\]"),
        ({'target': ''}, "target='' .*id of the target"),
        ({'compressor_sha256': SHA[:-1]}, 'compressor_sha256=.*64'),
        ({'compressor_sha256': SHA.upper()}, 'compressor_sha256=.*lower-case'),
        ({'hidden_size': '5'}, 'hidden_size=5'),
        ({'hidden_size': 'four'}, "metadata hidden_size='four' .*JSON"),
        ({'hidden_size': 'true'}, 'hidden_size=True .*integer'),
        ({'hidden_size': '4.0'}, 'hidden_size=4.0 .*integer'),
        ({'hidden_size': '9' * 5000}, 'metadata hidden_size=.*JSON'),
        ({'template': 'alpaca'}, "template='alpaca' .*plain"),
        ({'decoder_prefix': '[-1]'}, 'decoder_prefix=.*at least 0'),
        ({'decoder_prefix': '[' * 100_000}, 'metadata decoder_prefix=.*JSON'),
        ({'source_tokens': '[24, 0]'}, 'source_tokens=.*at least 1'),
        ({'source_tokens': '[24]'}, 'source_tokens=.*one per context, 2'),
        ({'source_tokens': '{"0": 24}'}, 'source_tokens=.*integers'),
        ({'ids': '["a", 2]'}, 'ids=.*strings'),
        ({'ids': '["a"]', 'source_tokens': '[24]'}, r'shape of embeddings=\(2, 3, 4\).*1 ids'),
    ],
)
def test_broken_metadata_is_refused(tmp_path, metadata, message):
    path = save_raw(tmp_path, ARRAYS, **metadata)
    with pytest.raises(PicJaxError, match=message) as caught:
        context_files.read(path)
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_missing_and_unknown_tensors_are_named(tmp_path):
    tensors = {name: array for name, array in ARRAYS.items() if name != 'special'} | {'keys': ARRAYS['special']}
    with pytest.raises(PicJaxError, match=r"missing \['special'\], unknown \['keys'\]"):
        context_files.read(save_raw(tmp_path, tensors))


def test_shapes_are_checked_before_any_tensor_is_loaded(tmp_path, monkeypatch):
    path = save_raw(tmp_path, ARRAYS | {'text_start': np.zeros(9, np.int32)})
    opened = safetensors.safe_open

    class HeaderOnly:
        def __init__(self, *args, **kwargs):
            self.file = opened(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __getattr__(self, name):
            assert name != 'get_tensor', 'a tensor was loaded'
            return getattr(self.file, name)

    monkeypatch.setattr(safetensors, 'safe_open', HeaderOnly)
    with pytest.raises(PicJaxError, match='shape of text_start'):
        context_files.read(path)


def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path):
    whole, path = GOLDEN.read_bytes(), tmp_path / 'damaged'
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(PicJaxError, match='damaged'):
            context_files.read(path)
    refused = 0
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x55]) + whole[index + 1 :])
        try:
            context_files.read(path)
        except PicJaxError:
            refused += 1
    assert refused > len(whole) / 3


@pytest.mark.parametrize('name', ['absent', '.'])
def test_a_missing_file_or_a_folder_is_named(tmp_path, name):
    with pytest.raises(PicJaxError, match=f'^{tmp_path / name}: cannot be read'):
        context_files.read(tmp_path / name)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    context_files.write(path, stored())

    def no_space(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(PicJaxError, match='file: cannot be written: No space left'):
        context_files.write(path, random_contexts(3, 2))
    assert os.listdir(tmp_path) == ['file']
    assert path.read_bytes() == GOLDEN.read_bytes()


def test_write_checks_again_and_names_a_missing_folder(tmp_path):
    spoilt = stored(embeddings=ARRAYS['embeddings'].copy())
    spoilt.embeddings[0, 0, 0] = np.nan
    with pytest.raises(PicJaxError, match='finite'):
        context_files.write(tmp_path / 'file', spoilt)
    assert os.listdir(tmp_path) == []
    with pytest.raises(PicJaxError, match='No such file or directory'):
        context_files.write(tmp_path / 'no' / 'file', stored())


def test_check_target():
    contexts.check_target(stored(), 4, 'example/llama', 'main')
    contexts.check_target(stored(), 4)
    with pytest.raises(PicJaxError, match='hidden_size=4, this model has 8'):
        contexts.check_target(stored(), 8, 'example/llama')
    with pytest.raises(PicJaxError, match="target='example/llama', this model has 'other'"):
        contexts.check_target(stored(), 4, 'other')
    with pytest.raises(PicJaxError, match="target_revision='main', this model has 'v2'"):
        contexts.check_target(stored(), 4, 'example/llama', 'v2')


def test_select_keeps_order_and_shrinks_k():
    picked = contexts.select(stored(), [1])
    assert picked.embeddings.shape == (1, 2, 4)
    assert picked.metadata.ids == ('b é',)
    assert picked.metadata.source_tokens == (12,)
    assert picked.positions.tolist() == [[3, 11]]
    assert contexts.select(stored(), [1, 0]).text_start.tolist() == [12, 24]
    for rows in ([2], [-1], []):
        with pytest.raises(PicJaxError, match=r'rows?='):
            contexts.select(stored(), rows)


def test_merge_of_slices_is_the_whole():
    whole = random_contexts(6, 5)
    assert_same(contexts.merge([contexts.select(whole, [0, 1, 2]), contexts.select(whole, [3, 4, 5])]), whole)
    assert_same(contexts.merge([contexts.select(whole, [row]) for row in range(6)]), whole)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'target': 'other'}, "two: target='other' differs from 'example/llama' in one"),
        ({'target_revision': 'v2'}, 'target_revision'),
        ({'compressor_sha256': '0' * 64}, 'compressor_sha256'),
        ({'decoder_prefix': ()}, 'decoder_prefix'),
        ({'template': 'chat'}, 'template'),
        ({'layout': 'icae'}, 'layout'),
    ],
)
def test_merge_refuses_what_does_not_go_together(changes, message):
    other = stored(metadata=dataclasses.replace(METADATA, **changes))
    with pytest.raises(PicJaxError, match=message):
        contexts.merge([stored(), other], ['one', 'two'])


def test_merge_refuses_another_special_vector_or_dtype():
    with pytest.raises(PicJaxError, match='part 2: special'):
        contexts.merge([stored(), stored(special=ARRAYS['special'] + 1)])
    low = {name: ARRAYS[name].astype(ml_dtypes.bfloat16) for name in ('embeddings', 'special')}
    with pytest.raises(PicJaxError, match="part 2: dtype='bfloat16' differs from 'float32'"):
        contexts.merge([stored(), stored(**low)])


def test_describe_is_json_with_exact_sizes():
    description = json.loads(json.dumps(contexts.describe(stored())))
    assert description['dtype'] == 'float32'
    assert description['target'] == 'example/llama'
    assert description['contexts'] == [
        {'row': 0, 'id': 'a', 'source_tokens': 24, 'k': 3, 'ratio': 8.0, 'bytes': 48},
        {'row': 1, 'id': 'b é', 'source_tokens': 12, 'k': 2, 'ratio': 6.0, 'bytes': 32},
    ]


def test_keys_and_values_survive_a_file_and_cutting_and_joining(tmp_path):
    whole = key_values(5, 4)
    path = tmp_path / 'kv.safetensors'
    context_files.write(path, whole)
    again = context_files.read(path)
    assert_same(again, whole)
    assert contexts.describe(again)['slot_shapes'] == {'keys': [3, 2, 4], 'values': [3, 2, 4]}
    assert contexts.describe(again)['contexts'][4]['bytes'] == 4 * 2 * 3 * 2 * 4 * 4
    short = int(np.argmin(whole.lengths))
    assert contexts.select(whole, [short]).keys.shape == (1, 3, whole.lengths[short], 2, 4)
    assert_same(contexts.merge([contexts.select(whole, [row]) for row in range(5)]), whole)
    memory = contexts.to_memory(whole)
    assert memory.keys.shape == memory.values.shape == (5, 4, 3, 2, 4)
    np.testing.assert_array_equal(memory.keys[2, 1], whole.keys[2, :, 1])
    assert_same(contexts.from_memory(memory, whole.special, whole.metadata), whole)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(values=None), r"missing \['values'\]"),
        (dict(embeddings=ARRAYS['embeddings']), r"unknown \['keys', 'values'\]"),
        (dict(keys=np.zeros((5, 3, 5, 2, 4), np.float32)), 'shape of'),
        (dict(values=np.full((5, 3, 4, 2, 4), np.inf, np.float32)), r'values\[0\].*finite'),
        (dict(keys=np.ones((5, 3, 4, 2, 4), np.float32)), r'keys.*zero in padding'),
        (dict(keys=np.zeros((5, 3, 4, 2, 4), ml_dtypes.bfloat16)), 'dtype of special'),
    ],
)
def test_broken_keys_and_values_are_refused(changes, message):
    with pytest.raises(PicJaxError, match=message):
        dataclasses.replace(key_values(5, 4), **changes)


def test_embeddings_and_key_values_do_not_merge():
    with pytest.raises(PicJaxError, match='part 2: slot_shapes'):
        contexts.merge([random_contexts(2, 3), key_values(2, 3)])


def test_the_golden_file_of_keys_and_values_reads_as_literal_values_and_rewrites_to_the_same_bytes(tmp_path):
    path = GOLDEN.with_name('golden_key_values.safetensors')
    found = context_files.read(path)
    assert found.keys[0, :, :, 0].tolist() == [[[1, -1], [2, -2]], [[3, -3], [4, -4]]]
    assert found.values[0, :, :, 0].tolist() == [[[0.5, 0], [0.25, 0]], [[0, 0.5], [0, 0.25]]]
    assert (found.lengths.tolist(), found.positions.tolist(), found.text_start.tolist()) == ([2], [[0, 1]], [2])
    assert found.metadata.ids == ('a',)
    context_files.write(tmp_path / 'again', found)
    assert (tmp_path / 'again').read_bytes() == path.read_bytes()
