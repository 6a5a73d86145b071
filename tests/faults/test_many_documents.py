"""`pic-jax compress` of documents of many lengths compiles a few programs, not one for each length."""

import jax
import many_documents
import pytest

from pic_jax.api import TrainedCompressor, load
from pic_jax.cli import compress
from pic_jax.interop import context_files

DOCUMENTS, LONGEST = 60, 300


@pytest.fixture
def counted(tmp_path, trained_workdir, monkeypatch):
    """A function that compresses 60 documents one by one; gives how often the compressor was compiled, and may be."""
    monkeypatch.setattr(compress, '_BATCH', 1)
    documents, out = tmp_path / 'documents.jsonl', tmp_path / 'out.safetensors'
    many_documents.write_documents(documents, DOCUMENTS, LONGEST)

    def count() -> tuple[int, int]:
        jax.clear_caches()
        code, said = many_documents.compress([f'--workdir={trained_workdir}', str(documents), f'--out={out}'])
        assert code == 0
        assert [done for done, _, _, _ in said['samples']] == list(range(1, DOCUMENTS + 1))
        tokens = context_files.read(out).metadata.source_tokens
        assert len(tokens) == DOCUMENTS
        assert len(set(tokens)) > DOCUMENTS / 2
        return many_documents.programs(said['compiled']), many_documents.limit(max(tokens), 1)

    return count


@pytest.mark.slow
def test_compilations_are_bounded_by_the_buckets(counted):
    compiled, allowed = counted()
    assert 4 < compiled <= allowed


@pytest.mark.slow
def test_without_buckets_there_are_too_many(counted, monkeypatch):
    monkeypatch.setattr(TrainedCompressor, '_bucket', lambda self, length: length)
    compiled, allowed = counted()
    assert compiled > allowed


def test_buckets_are_few_and_hold_their_lengths(trained_workdir):
    """Up to the 512 positions of the model; padding may add a quarter where it does not go to a power of two."""
    trained = load(trained_workdir)
    buckets = [trained._bucket(length) for length in range(1, 513)]
    assert all(bucket >= length for length, bucket in enumerate(buckets, 1))
    assert all(bucket <= length * 1.25 for length, bucket in enumerate(buckets, 1) if length > 32)
    assert buckets == sorted(buckets)
    assert len(set(buckets)) <= many_documents.limit(512, 1)
    assert buckets[-1] == 512
