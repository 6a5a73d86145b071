"""Files of stored contexts and headers of safetensors files with something wrong in them."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[1] / 'interop' / 'golden_contexts.safetensors'
F32 = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}


def packed(header: object, data: bytes = b'') -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def one(**changes) -> dict:
    return {'special': F32 | changes}


# Bytes in the place of a whole file: no reader may allocate what they promise.
HEADERS = [
    ('empty', b''),
    ('7 bytes', b'\0' * 7),
    ('length only', struct.pack('<Q', 16)),
    ('length beyond the file', struct.pack('<Q', 2**40) + b'{}'),
    ('length of 2**63', struct.pack('<Q', 2**63) + b'{}'),
    ('length of 2**64 - 1', b'\xff' * 8 + b'{}'),
    ('header beyond 100 MB', struct.pack('<Q', 100_000_001) + b'{}'),
    ('length of 0', struct.pack('<Q', 0) + b'{}'),
    ('no JSON', packed(b'{"special":')),
    ('a list', packed([])),
    ('a number', packed(3)),
    ('not UTF-8', packed(b'{"\xff": 1}')),
    ('deep', packed(b'{"a":' * 10_000)),
    ('no dtype', packed({'special': {'shape': [4], 'data_offsets': [0, 16]}}, b'\0' * 16)),
    ('unknown dtype', packed(one(dtype='Q4'), b'\0' * 16)),
    ('pickled dtype', packed(one(dtype='O'), b'\0' * 16)),
    ('shape of a string', packed(one(shape='4'), b'\0' * 16)),
    ('negative shape', packed(one(shape=[-4]), b'\0' * 16)),
    ('fractional shape', packed(one(shape=[4.0]), b'\0' * 16)),
    ('shape of 2**62', packed(one(shape=[2**62]), b'\0' * 16)),
    ('shape of 2**64', packed(one(shape=[2**64]), b'\0' * 16)),
    ('shape that overflows', packed(one(shape=[2**32, 2**32]), b'\0' * 16)),
    ('shape of 0 by 2**62', packed(one(shape=[0, 2**62], data_offsets=[0, 0]))),
    ('shape that does not fill its bytes', packed(one(shape=[3]), b'\0' * 16)),
    ('offsets beyond the file', packed(one(data_offsets=[0, 2**40], shape=[2**38]), b'\0' * 16)),
    ('offsets beyond 2**63', packed(one(data_offsets=[2**63, 2**63 + 16]), b'\0' * 16)),
    ('negative offsets', packed(one(data_offsets=[-16, 0]), b'\0' * 16)),
    ('offsets the wrong way round', packed(one(data_offsets=[16, 0]), b'\0' * 16)),
    ('one offset', packed(one(data_offsets=[0]), b'\0' * 16)),
    ('overlapping tensors', packed({'a': F32, 'b': F32 | {'data_offsets': [8, 24]}}, b'\0' * 24)),
    ('two tensors in one place', packed({'a': F32, 'b': F32}, b'\0' * 16)),
    ('a hole', packed({'a': F32, 'b': F32 | {'data_offsets': [24, 40]}}, b'\0' * 40)),
    ('bytes left over', packed(one(), b'\0' * 17)),
    ('a name twice', packed(b'{"a":%s,"a":%s}' % (json.dumps(F32).encode(),
                                                  json.dumps(F32 | {'shape': [2], 'data_offsets': [0, 8]}).encode()),
                            b'\0' * 16)),
    ('metadata of numbers', packed(one() | {'__metadata__': {'format': 1}}, b'\0' * 16)),
    ('metadata of a list', packed(one() | {'__metadata__': []}, b'\0' * 16)),
    ('a pickle', b'\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.'),
    ('a zip', b'PK\x03\x04' + b'\0' * 60),
]  # fmt: skip

METADATA = [
    ('format', None, "metadata format=None is not valid: expected 'pic-context'"),
    ('format', 'pic-stream', "metadata format='pic-stream'"),
    ('format_version', '3', "expected '1' or '2'"),
    ('format_version', '2', "missing ['nesting']"),
    ('target', '', 'expected the id of the target model'),
    ('target', None, "missing ['target']"),
    ('compressor_sha256', '0' * 63, 'expected 64 lower-case hex digits'),
    ('compressor_sha256', '../../etc/passwd', 'expected 64 lower-case hex digits'),
    ('hidden_size', '0', 'expected an integer of at least 1'),
    ('hidden_size', '-4', 'expected an integer of at least 1'),
    ('hidden_size', 'NaN', 'expected an integer of at least 1'),
    ('hidden_size', '4e0', 'expected an integer of at least 1'),
    ('hidden_size', str(2**62), 'shape of embeddings'),
    ('hidden_size', '9' * 5000, 'expected JSON'),
    ('hidden_size', '__import__("os")', 'expected JSON'),
    ('template', 'alpaca', 'expected one of plain'),
    ('template', '{{ 7 * 7 }}', 'expected one of plain'),
    ('decoder_prefix', '1', 'expected integers of at least 0'),
    ('decoder_prefix', '[true]', 'expected integers of at least 0'),
    ('decoder_prefix', f'[{2**31}]', 'below 2**31'),
    ('decoder_prefix', '[' * 50_000, 'expected JSON'),
    ('source_tokens', '[24]', 'expected one per context, 2 as in ids'),
    ('source_tokens', '[24, 0]', 'expected integers of at least 1'),
    ('source_tokens', f'[24, {10**400}]', 'below 2**31'),
    ('source_tokens', '[24, 12.0]', 'expected integers of at least 1'),
    ('ids', '["a"]', 'expected one per context, 1 as in ids'),
    ('ids', '[1, 2]', 'expected strings'),
    ('ids', '"ab"', 'expected strings'),
    ('nesting', '{}', "unknown ['nesting']"),
    ('_target_', 'os.system', "unknown ['_target_']"),
    ('a\nb\x1b[31m', '1', r"unknown ['a\nb\x1b[31m']"),
]


def change(name: str, place: tuple, value: float):
    def apply(tensors: dict) -> None:
        tensors[name][place] = value

    return apply


TENSORS = [
    (change('embeddings', (0, 0, 0), np.nan), 'embeddings[0] is not valid: expected finite numbers only'),
    (change('embeddings', (1, 1, 3), -np.inf), 'embeddings[1] is not valid'),
    (change('embeddings', (1, 2, 0), 1), 'embeddings[1] is not valid: expected zero in padding slots'),
    (change('embeddings', (1, 2, 0), np.nan), 'embeddings[1] is not valid'),
    (change('special', (0,), np.nan), 'special is not valid'),
    (change('lengths', (0,), 0), 'lengths[0]=0 is not valid: expected 1 to k=3'),
    (change('lengths', (0,), 2**31 - 1), 'lengths[0]=2147483647'),
    (change('lengths', (1,), -1), 'lengths[1]=-1'),
    (change('positions', (0, 0), 12), 'positions[0] is not valid'),
    (change('positions', (0, 2), -(2**31)), 'positions[0] is not valid'),
    (change('positions', (1, 2), 1), 'positions[1] is not valid: expected zero in padding slots'),
    (change('text_start', (0,), 0), 'text_start[0] is not valid'),
    (change('text_start', (1,), -(2**31)), 'text_start[1] is not valid'),
    (lambda t: t.pop('special'), "missing ['special']"),
    (lambda t: t.update({'../../x': t['special']}), "unknown ['../../x']"),
    (lambda t: t.update(keys=t['special']), "unknown ['keys']"),
    (lambda t: t.update(embeddings=t['embeddings'].astype(np.float64)), 'dtype of embeddings'),
    (lambda t: t.update(embeddings=t['embeddings'].astype(np.int32)), 'dtype of embeddings'),
    (lambda t: t.update(lengths=t['lengths'].astype(np.int64)), 'dtype of lengths'),
    (lambda t: t.update(positions=t['positions'].astype(np.float32)), 'dtype of positions'),
    (lambda t: t.update(embeddings=t['embeddings'][:, :0]), 'shape of embeddings'),
    (lambda t: t.update(embeddings=t['embeddings'][..., :3].copy()), 'shape of embeddings'),
    (lambda t: t.update(special=t['special'][:3].copy()), 'shape of special'),
    (lambda t: t.update(lengths=t['lengths'][None]), 'shape of lengths'),
    (lambda t: t.update(text_start=t['text_start'][:1].copy()), 'shape of text_start'),
]


def header_and_data(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], 'little')
    return json.loads(data[8 : 8 + size]), data[8 + size :]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(('what', 'data'), HEADERS, ids=[what for what, _ in HEADERS])
def test_a_bad_header_is_refused_by_every_reader_of_tensors(here, capsys, tiny_target, what, data):
    Path('bad').write_bytes(data)
    refused(capsys, ['contexts', 'show', 'bad'], 1, 'bad: ')
    shutil.copytree(tiny_target, 'base')
    Path('base/model.safetensors').write_bytes(data)
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'base')
    refused(capsys, ['convert', f'--base={tiny_target}', '--icae=bad', '--out=out'], 1, 'bad')
    assert not Path('out').exists()


@pytest.mark.parametrize(('key', 'value', 'said'), METADATA, ids=[ascii(f'{k}={v}'[:40]) for k, v, _ in METADATA])
def test_bad_metadata_of_contexts_is_refused(here, capsys, key, value, said):
    header, data = header_and_data(GOLDEN)
    header['__metadata__'] |= {key: value}
    if value is None:
        del header['__metadata__'][key]
    Path('bad').write_bytes(packed(header, data))
    refused(capsys, ['contexts', 'show', 'bad'], 1, 'bad: ', said)
    refused(capsys, ['ask', '--workdir=tiny_base/pic', 'bad', 'Why?'], 1, 'bad: ', said)


@pytest.mark.parametrize(('damage', 'said'), TENSORS, ids=[said[:40] for _, said in TENSORS])
def test_bad_tensors_of_contexts_are_refused(here, capsys, damage, said):
    tensors = load_file(GOLDEN)
    damage(tensors)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, 'bad', header_and_data(GOLDEN)[0]['__metadata__'])
    for command in (['show', 'bad'], ['slice', 'bad', '--rows=0', '--out=out'], ['merge', 'bad', 'bad', '--out=out']):
        refused(capsys, ['contexts', *command], 1, 'bad: ', said)
    assert not Path('out').exists()


@pytest.mark.parametrize('engine', ['hf', 'vllm', 'sglang', 'peft', 'llama.cpp'])
def test_contexts_for_a_model_of_another_size_are_not_handed_to_an_engine(here, capsys, engine):
    command = ['contexts', 'to', engine, str(GOLDEN), '--base=tiny_base', '--out=out']
    refused(capsys, command, 1, 'made for hidden_size=4, this model has 128')
    assert not Path('out').exists()


def test_a_text_start_that_leaves_no_position_id_is_refused(here, capsys, tiny_target):
    """2**31 - 1 is a position id; those of the text behind it would be negative."""
    header, _ = header_and_data(GOLDEN)
    header['__metadata__']['hidden_size'] = '32'
    tensors = load_file(GOLDEN)
    tensors |= {'embeddings': np.tile(tensors['embeddings'], 8), 'special': np.tile(tensors['special'], 8)}
    tensors['text_start'][0] = 2**31 - 1
    save_file(tensors, 'bad', header['__metadata__'])
    command = ['contexts', 'to', 'hf', 'bad', f'--base={tiny_target}', '--question=Why?', '--out=out']
    refused(capsys, command, 1, 'text_start=2147483647 is not valid')
    assert not Path('out').exists()
