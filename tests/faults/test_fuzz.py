"""Every reader on damaged files for a few seconds; `benchmarks/fuzz.py` goes on for as long as it is told."""

import shutil

import pytest
from fuzz_readers import READERS, try_one
from hypothesis import HealthCheck, given, settings
from limits import memory_limit, time_limit
from mutations import damaged

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
