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


def test_what_is_compared_is_said():
    said = [READERS[name].held_to for name in ('weights', 'token shard', 'metrics')]
    assert said == ['the bytes', 'rules', 'nothing']


def test_a_reader_goes_on_with_other_seeds(tmp_path, monkeypatch):
    """After an interruption, too; and a segment keeps where the ones before it come from."""
    results, seeds = tmp_path / 'fuzz.json', []
    older = {'commit': 'abc', 'machine': 'another', 'jax': '0.9', 'seed': 0}
    row = {
        'examples': 150,
        'accepted': 9,
        'seconds': 1.0,
        'failures': {},
        'held_to': {'nothing': 150},
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
    assert stored['weights']['held_to'] == {'nothing': 150, 'the bytes': 100}
    assert [len(stored[name]['origins']) for name in ('weights', 'metrics')] == [2, 1]
