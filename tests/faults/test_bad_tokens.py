"""Folders of tokenised documents, finished or not, with something wrong in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from pic_jax.cli.main import main

MISSING = object()
# Dotted key of index.json (shards.0 is the first shard), its value, and what is said.
INDEX = [
    ('format', 'pic-context', "expected 'pic-tokens'"),
    ('format', MISSING, "format=None is not valid: expected 'pic-tokens'"),
    ('format_version', '1', 'expected 1'),
    ('format_version', 2, 'expected 1'),
    ('fields', ['text'], "expected ['context']"),
    ('dtype', 'int32', 'expected uint16 or uint32'),
    ('dtype', 'object', 'expected uint16 or uint32'),
    ('dtype', None, 'expected str'),
    ('dtype', 'uint32', 'bytes: expected'),
    ('source', None, 'source=None is not valid: expected str'),
    ('tokenizer_sha256', '0' * 64, 'has tokenizer_sha256=000000000000'),
    ('tokenizer_sha256', 3, 'tokenizer_sha256=3 is not valid: expected str'),
    ('vocab_size', 2**31, 'vocab_size=2147483648 is not valid: expected 600'),
    ('vocab_size', 599, 'vocab_size=599 is not valid: expected 600'),
    ('vocab_size', -1, 'vocab_size=-1 is not valid: expected 600'),
    ('vocab_size', True, 'vocab_size=True is not valid: expected int'),
    ('documents', 23, 'has 24 lengths: expected 23'),
    ('documents', 0, 'has 24 lengths: expected 0'),
    ('documents', 2**62, 'has 24 lengths: expected 4611686018427387904'),
    ('documents', '24', "documents='24' is not valid: expected int"),
    ('tokens', 3, 'documents and tokens are not the sums over its shards'),
    ('shards', {}, 'expected list'),
    ('shards', [], 'documents and tokens are not the sums'),
    ('shards', [3], 'file=None is not valid: expected str'),
    ('shards.0.file', '../x.arrayrecord', "shard '../x.arrayrecord' is not the name of a file in this folder"),
    ('shards.0.file', '/etc/passwd', "shard '/etc/passwd' is not the name of a file in this folder"),
    ('shards.0.file', '..', 'no such file, but index.json lists it'),
    ('shards.0.file', 'a\0b', 'no such file'),
    ('shards.0.file', 3, 'file=3 is not valid: expected str'),
    ('shards.0.documents', 0, 'do not add up'),
    ('shards.0.documents', -10, 'do not add up'),
    ('shards.0.documents', 2**62, 'do not add up'),
    ('shards.0.tokens', 1, 'do not add up to 1'),
    ('shards.0.bytes', 1, 'expected 1, as index.json says'),
    ('shards.0.bytes', -1, 'expected -1, as index.json says'),
]
LENGTHS = [
    (b'', 'has 0 lengths: expected 24'),
    (b'\0' * 96, 'do not add up'),
    (b'\xff' * 96, 'do not add up'),
    (b'\1\0\0\0' * 24, 'do not add up'),
    (b'\1\0\0\0' * 25, 'has 25 lengths: expected 24'),
]
# Of the file beside a shard, and of end.json, of a folder that is not finished.
UNFINISHED = [
    ('tokens-00001.json', 'lengths', MISSING),
    ('tokens-00001.json', 'lengths', 3),
    ('tokens-00001.json', 'lengths', ['a'] * 10),
    ('tokens-00001.json', 'lengths', [-1] * 10),
    ('tokens-00001.json', 'lengths', [2**32] * 10),
    ('tokens-00001.json', 'lengths', []),
    ('tokens-00001.json', 'documents', MISSING),
    ('tokens-00001.json', 'documents', 2**62),
    ('tokens-00001.json', 'tokens', 0),
    ('end.json', 'documents', MISSING),
    ('end.json', 'documents', 0),
    ('end.json', 'documents', '24'),
    ('end.json', 'documents', 2**62),
    ('end.json', 'documents_per_shard', 0),
]


@pytest.fixture(scope='session')
def tokenised(tmp_path_factory, tiny_target, text_data) -> Path:
    """24 documents in shards of 10."""
    folder = tmp_path_factory.mktemp('tokens') / 'tokens'
    command = ['tokenize', str(text_data), f'--base={tiny_target}', f'--out={folder}', '--documents_per_shard=10']
    assert main(command) == 0
    return folder


@pytest.fixture
def folder(tokenised, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tokenised, tmp_path / 'tokens'))


def change(path: Path, key: str, value: object) -> None:
    values = node = json.loads(path.read_text())
    *parents, last = key.split('.')
    for parent in parents:
        node = node[int(parent) if parent.isdigit() else parent]
    node[last] = value
    if value is MISSING:
        del node[last]
    path.write_text(json.dumps(values))


def train(config_file: Path) -> list[str]:
    return ['train', f'--config={config_file}', '--workdir=run', '--config.data.source=arrayrecord:tokens']


def ids(rows: list) -> list[str]:
    return [f'{row[-2]}={"missing" if row[-1] is MISSING else ascii(row[-1])[:20]}' for row in rows]


@pytest.mark.parametrize(('key', 'value', 'said'), INDEX, ids=ids([row[:2] for row in INDEX]))
def test_a_bad_index_is_refused(folder, capsys, tiny_config_file, key, value, said):
    change(folder / 'index.json', key, value)
    refused(capsys, train(tiny_config_file), 2 if 'has tokenizer' in said else 1, said)


@pytest.mark.parametrize(('data', 'said'), LENGTHS, ids=[said for _, said in LENGTHS])
def test_bad_lengths_are_refused(folder, capsys, tiny_config_file, data, said):
    (folder / 'lengths.bin').write_bytes(data)
    refused(capsys, train(tiny_config_file), 1, said)


def test_a_shard_of_other_bytes_is_refused_where_it_is_read(folder, capsys, tiny_config_file):
    shard = folder / 'tokens-00000.arrayrecord'
    shard.write_bytes(b'\xff' * shard.stat().st_size)
    refused(capsys, train(tiny_config_file), 1, 'cannot be read')


def test_a_large_id_is_no_negative_one(folder, monkeypatch):
    """uint32 ids beyond int32: they used to pass the check as negative numbers."""
    from pic_jax.data import token_shards
    from pic_jax.errors import PicJaxError

    index = token_shards.open_folder(folder)
    ids = np.full(index.lengths[0], 2**32 - 1, '<u4')
    monkeypatch.setitem(index.__dict__, 'records', [ids.tobytes()])
    monkeypatch.setitem(index.__dict__, 'dtype', 'uint32')
    with pytest.raises(PicJaxError, match='holds token 4294967295: expected ids below 600'):
        token_shards.Documents(index, np.array([0]))[0]


@pytest.mark.parametrize(('file', 'key', 'value'), UNFINISHED, ids=ids(UNFINISHED))
def test_a_damaged_file_of_an_unfinished_folder_is_refused(folder, capsys, file, key, value):
    (folder / 'index.json').unlink()
    change(folder / file, key, value)
    refused(capsys, ['tokenize', '--finish', '--out=tokens'], 1, f'{file} is damaged: delete it')
    assert not (folder / 'index.json').exists()
