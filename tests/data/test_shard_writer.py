"""Shards: the same bytes from any number of hosts, and after any interruption."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from pic_jax.config import CorpusConfig
from pic_jax.data import generator, shard_writer
from pic_jax.data.records import Record
from pic_jax.data.shard_writer import Settings, finish, missing, write_shards
from pic_jax.data.tokenise import encode, fingerprint
from pic_jax.errors import ConfigError, PicJaxError

TEXTS = [record.context[: 40 * (1 + i)] for i, record in
         enumerate(generator.generate(CorpusConfig(questions=1), 'train', 11, seed=4))]  # fmt: skip
SIZE = 3  # documents in a shard: 3, 3, 3 and 2


def documents(texts=TEXTS):
    return (Record(text, None, (), group=text, source=f'line {i}') for i, text in enumerate(texts))


def settings(tokenizer, **changes):
    fields = dict(
        source='x.jsonl', source_revision='abc', tokenizer='here', tokenizer_sha256=fingerprint(tokenizer),
        vocab_size=500, eos_token_id=2, documents_per_shard=SIZE, limit=None, passage_tokens=None,
    )  # fmt: skip
    return Settings(**(fields | changes))


def write(folder, tokenizer, host=0, hosts=1, texts=TEXTS, **changes):
    return write_shards(documents(texts), tokenizer, settings(tokenizer, **changes), folder, host, hosts, print)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(tmp_path, tokenizer):
    """What one host makes in one go."""
    assert write(tmp_path / 'whole', tokenizer) == 4
    assert finish(tmp_path / 'whole') is not None
    return contents(tmp_path / 'whole')


def test_every_byte_is_as_the_format_says(whole, tmp_path, tokenizer):
    expected = [encode(tokenizer, text) for text in TEXTS]
    index = json.loads(whole['index.json'])
    lengths = [len(ids) for ids in expected]
    assert (index['documents'], index['tokens'], index['longest']) == (11, sum(lengths), max(lengths))
    assert (index['format'], index['format_version'], index['fields'], index['dtype']) == (
        'pic-tokens', 1, ['context'], 'uint16',
    )  # fmt: skip
    assert (index['eos_token_id'], index['vocab_size'], index['limit']) == (2, 500, None)
    assert whole['lengths.bin'] == b''.join(length.to_bytes(4, 'little') for length in lengths)
    stored = []
    for number, shard in enumerate(index['shards']):
        assert shard['file'] == f'tokens-{number:05d}.arrayrecord'
        assert shard['bytes'] == len(whole[shard['file']])
        reader = ArrayRecordReader(str(tmp_path / 'whole' / shard['file']))
        assert reader.num_records() == shard['documents']
        held = reader.read_all()
        assert shard['tokens'] == sum(len(data) // 2 for data in held)
        stored += held
    assert stored == [b''.join(int(token).to_bytes(2, 'little') for token in ids) for ids in expected]


@pytest.mark.parametrize('order', list(itertools.permutations(range(3)))[::2])
def test_three_hosts_make_the_same_files_in_any_order(whole, tmp_path, tokenizer, order):
    folder = tmp_path / 'shared'
    for turn, host in enumerate(order):
        assert write(folder, tokenizer, host, 3) == (2 if host == 0 else 1)
        assert (finish(folder) is not None) == (turn == 2)  # the last one to finish writes the index
    assert contents(folder) == whole


def test_a_larger_vocabulary_takes_four_bytes(tmp_path, tokenizer):
    write(tmp_path, tokenizer, vocab_size=2**16 + 1)
    first = ArrayRecordReader(str(tmp_path / 'tokens-00000.arrayrecord')).read([0])[0]
    assert np.frombuffer(first, '<u4').tolist() == encode(tokenizer, TEXTS[0]).tolist()
    assert finish(tmp_path)['dtype'] == 'uint32'


class Killed(BaseException):
    pass


class Failing(shard_writer.ArrayRecordWriter):
    """Fails at the document of that number, counted over all shards."""

    left, error = 0, Killed

    def write(self, data):
        if Failing.left == 0:
            raise Failing.error('no space left')
        Failing.left -= 1
        return super().write(data)


@pytest.mark.parametrize('at', [0, 2, 3, 7, 10])
@pytest.mark.parametrize('error', [Killed, RuntimeError])
def test_an_interrupted_run_goes_on_with_the_shard_that_was_not_finished(
    whole, tmp_path, tokenizer, monkeypatch, at, error
):
    folder = tmp_path / 'again'
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, 'ArrayRecordWriter', Failing)
        patch.setattr(Failing, 'left', at)
        patch.setattr(Failing, 'error', error)
        with pytest.raises(Killed if error is Killed else PicJaxError, match='no space left'):
            write(folder, tokenizer)
    done = {name: data for name, data in contents(folder).items() if name.endswith('.arrayrecord')}
    assert sorted(done) == [f'tokens-{number:05d}.arrayrecord' for number in range(at // SIZE)]
    assert finish(folder) is None
    before = {name: (folder / name).stat().st_mtime_ns for name in done}
    assert write(folder, tokenizer) == 4 - len(done)
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == before  # not written again
    assert finish(folder) is not None
    assert contents(folder) == whole


def test_what_a_killed_process_left_is_cleared_in_the_end(whole, tmp_path, tokenizer):
    folder = tmp_path / 'left'
    folder.mkdir()
    (folder / '.tokens-00001.arrayrecord.0123abcd.tmp').write_bytes(b'half')
    (folder / 'tokens-00002.arrayrecord').write_bytes(b'moved, but the file beside it was not written')
    assert write(folder, tokenizer) == 4
    finish(folder)
    assert contents(folder) == whole


def test_a_shard_that_was_damaged_is_written_again(whole, tmp_path, tokenizer):
    path = tmp_path / 'whole' / 'tokens-00001.arrayrecord'
    path.write_bytes(path.read_bytes()[:-1])
    assert missing(tmp_path / 'whole') == [1]
    assert write(tmp_path / 'whole', tokenizer) == 1
    finish(tmp_path / 'whole')
    assert contents(tmp_path / 'whole') == whole


def test_a_finished_host_does_not_read_the_source_again(whole, tmp_path, tokenizer):
    def unread():
        raise AssertionError
        yield

    assert write_shards(unread(), tokenizer, settings(tokenizer), tmp_path / 'whole', 1, 2, print) == 0


def test_a_limit_takes_the_first_documents(whole, tmp_path, tokenizer):
    folder = tmp_path / 'limited'
    assert write(folder, tokenizer, limit=7) == 3
    index = finish(folder)
    assert (index['documents'], [shard['documents'] for shard in index['shards']]) == (7, [3, 3, 1])
    assert contents(folder)['tokens-00001.arrayrecord'] == whole['tokens-00001.arrayrecord']


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('source_revision', 'def'),
        ('tokenizer_sha256', '00'),
        ('documents_per_shard', 4),
        ('limit', 9),
        ('vocab_size', 501),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(whole, tmp_path, tokenizer, key, value):
    with pytest.raises(
        ConfigError, match=f'was made with {key}=.*, not with {key}={value!r}: expected an empty folder'
    ):
        write(tmp_path / 'whole', tokenizer, **{key: value})
    assert contents(tmp_path / 'whole') == whole


def test_hosts_with_different_settings_are_found_out(tmp_path, tokenizer):
    """Both began before the other had written anything."""
    write(tmp_path / 'a', tokenizer, 0, 2)
    write(tmp_path / 'b', tokenizer, 1, 2, source_revision='def')
    for path in (tmp_path / 'b').glob('tokens-*'):
        path.rename(tmp_path / 'a' / path.name)
    with pytest.raises(ConfigError, match="was made with source_revision='def', not with source_revision='abc'"):
        finish(tmp_path / 'a')
    assert not (tmp_path / 'a' / 'index.json').exists()


def test_the_name_of_the_tokenizer_may_differ(whole, tmp_path, tokenizer):
    other = dataclasses.replace(settings(tokenizer), tokenizer='another/path')
    assert write_shards(documents(), tokenizer, other, tmp_path / 'whole', 0, 1, print) == 0


def test_a_source_without_documents_is_refused(tmp_path, tokenizer):
    with pytest.raises(PicJaxError, match=r'x\.jsonl holds no documents'):
        write(tmp_path / 'none', tokenizer, texts=[])
    assert finish(tmp_path / 'none') is None


def test_a_damaged_end_is_refused(whole, tmp_path):
    (tmp_path / 'whole' / 'end.json').write_text('{"documents": 0, "documents_per_shard": 3}')
    with pytest.raises(PicJaxError, match=r'end\.json is damaged'):
        finish(tmp_path / 'whole')
