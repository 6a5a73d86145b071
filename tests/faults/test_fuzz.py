"""Every reader on damaged files for a few seconds; `benchmarks/fuzz.py` goes on for as long as it is told."""

import json
import shutil

import fuzz
import pytest
from fuzz_readers import READERS, try_one
from hypothesis import HealthCheck, given, settings
from limits import memory_limit, time_limit
from mutations import damaged
from safetensors.numpy import load_file, save_file

EXAMPLES = 100
SLOW = {'tokenizer': 20, 'tokenizer config': 30}  # of the examples of others, where one costs more
SECONDS, BYTES = 10, 2**30


@pytest.mark.parametrize('name', READERS)
def test_a_valid_file_is_accepted(tmp_path, name):
    reader = READERS[name]
    reader.make(tmp_path)
    assert try_one(reader, tmp_path, (tmp_path / reader.file).read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize('name', READERS)
def test_a_damaged_file_is_refused_or_read_as_what_it_says(tmp_path, name):
    reader, valid, here = READERS[name], tmp_path / 'valid', tmp_path / 'here'
    valid.mkdir()
    reader.make(valid)

    @settings(max_examples=SLOW.get(name, EXAMPLES), deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(damaged((valid / reader.file).read_bytes(), reader.kind))
    def one(data):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(valid, here)
        with time_limit(SECONDS):
            try_one(reader, here, data)

    with memory_limit(BYTES):
        one()


@pytest.mark.parametrize('name', ['base shard', 'adapter', 'icae', 'icformer'])
def test_numbers_that_are_not_the_files_are_found(tmp_path, name):
    """Bytes of another file beside what was read."""
    reader = READERS[name]
    reader.make(tmp_path)
    result = reader.read(tmp_path)
    save_file({key: value + 1 for key, value in load_file(tmp_path / reader.file).items()}, tmp_path / 'other')
    with pytest.raises(AssertionError):
        reader.right((tmp_path / 'other').read_bytes(), result)


OTHER_WORDS = (
    ('base config', b'"hidden_size": 8', b'"hidden_size": 16'), ('base config', b'500000.0', b'600000.0'),
    ('base config', b'"factor": 8.0', b'"factor": 9.0'), ('base config', b'"eos_token_id": [2]', b'"eos_token_id": 3'),
    ('base config', b'embeddings": true', b'embeddings": false'), ('run config', b'"seed": 0', b'"seed": 1'),
    ('jsonl', b'one text', b'two text'), ('jsonl', b'which?', b'whose?'), ('jsonl', b'"II"', b'"IV"'),
    ('jsonl', b'"text": "one text"', b'"text": " "'), ('contexts to compress', b'one text', b'two text'),
    ('squad', b'Ann came.', b'Bob came.'), ('squad', b'"text": "Ann"', b'"text": "Bob"'),
    ('squad', b'"title": "T"', b'"title": "U"'), ('text', b'Two', b'Six'), ('metrics', b'2.5', b'2.6'),
    ('adapter config', b'"r": 2', b'"r": 3'), ('overrides', b'seed=3', b'seed=4'),
    ('icformer config', b'"num_hidden_layers": 1', b'"num_hidden_layers": 2'),
)  # fmt: skip


@pytest.mark.parametrize(('name', 'old', 'new'), OTHER_WORDS)
def test_words_that_are_not_the_files_are_found(tmp_path, name, old, new):
    reader = READERS[name]
    reader.make(tmp_path)
    data = (tmp_path / reader.file).read_bytes()
    assert data.count(old)
    with pytest.raises(AssertionError):
        reader.right(data.replace(old, new), reader.read(tmp_path))


@pytest.mark.parametrize('name', ['token index', 'token lengths', 'token shard', 'unfinished shard', 'unfinished end'])
def test_documents_that_nobody_wrote_are_found(tmp_path, name):
    reader = READERS[name]
    reader.make(tmp_path)
    found = reader.read(tmp_path)
    for wrong in (found[:-1], found[::-1], [ids + 1 for ids in found]):
        with pytest.raises(AssertionError):
            reader.right(b'', wrong)


def test_what_is_compared_is_said():
    assert [READERS[name].held_to for name in ('weights', 'token shard')] == ['the bytes', 'rules']


def test_a_reader_goes_on_with_other_seeds(tmp_path, monkeypatch):
    """After an interruption, too; and a segment keeps where the ones before it come from."""
    results, seeds = tmp_path / 'fuzz.json', []
    older = {'commit': 'abc', 'machine': 'another', 'jax': '0.9', 'seed': 0}
    row = {
        'examples': 150,
        'accepted': 9,
        'seconds': 1.0,
        'failures': {},
        'held_to': {'rules': 150},
        'origins': [older],
    }
    results.write_text(json.dumps({'readers': {'weights': row}}))
    monkeypatch.setattr(fuzz, 'RESULTS', results)

    def found(reader, folder, seconds, first_seed):
        seeds.append(first_seed)
        return {'examples': 50, 'accepted': 1, 'failures': {}}

    monkeypatch.setattr(fuzz, 'fuzz', found)
    for _ in range(2):
        assert fuzz.segment(['weights', 'metrics'], 0.01) == 0
    assert seeds == [150, 0, 200, 50]
    stored = fuzz.stored()
    assert [stored[name]['examples'] for name in ('weights', 'metrics')] == [250, 100]
    assert stored['weights']['origins'][0] == older
    assert stored['weights']['held_to'] == {'rules': 150, 'the bytes': 100}
    assert [len(stored[name]['origins']) for name in ('weights', 'metrics')] == [2, 1]
