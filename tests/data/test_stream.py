"""Sources of documents, read one by one."""

import json

import datasets
import huggingface_hub
import pytest

from pic_jax.data import readers, stream
from pic_jax.errors import ConfigError, PicJaxError


def read(path, passage_tokens=4):
    return list(stream.documents(str(path), stream.revision_of(str(path)), passage_tokens))


def test_lines_of_a_file_are_the_records_of_the_reader(tmp_path):
    texts = ['one', 'two\u2028lines', ' ', 'na\u00efve', 'one']
    path = tmp_path / 'notes.jsonl'
    path.write_bytes(
        '\r\n\n'.join(json.dumps({'text': text}, ensure_ascii=False) for text in texts).encode('utf-8-sig')
    )
    assert read(path) == readers.read(str(path), 4)
    assert [record.context for record in read(path)] == ['one', 'two\u2028lines', 'na\u00efve', 'one']


def test_a_large_file_is_not_read_whole(tmp_path):
    path = tmp_path / 'notes.jsonl'
    path.write_text('{"text": "first"}\nbroken\n')
    documents = stream.documents(str(path), '', 4)
    assert next(documents).context == 'first'
    with pytest.raises(PicJaxError, match=r'notes\.jsonl:2: not valid JSON'):
        next(documents)


def test_the_revision_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_text('some words')
    before = stream.revision_of(str(path))
    assert before == stream.revision_of(str(path))
    assert len(before) == 64
    path.write_text('some  words')
    assert stream.revision_of(str(path)) != before


@pytest.mark.parametrize(
    ('name', 'data', 'error', 'said'),
    [
        ('notes.csv', b'a', ConfigError, r'notes\.csv. is not valid: expected a \.jsonl, \.txt or \.md file or hub:'),
        ('notes.jsonl', b'{"text": "a"}\n{"text": "\xff"}', PicJaxError, r'notes\.jsonl:2: byte 10 is not UTF-8 text'),
        ('notes.jsonl', b'{"txet": "a"}', PicJaxError, r'notes\.jsonl:1: fields txet are not a record'),
        (
            'notes.jsonl',
            b'{"context": "a", "prompt": "b", "answer": "c"}',
            PicJaxError,
            r'notes\.jsonl:1 is a question',
        ),
        ('notes.txt', b' ', PicJaxError, r'notes\.txt is empty'),
        ('notes.txt', None, PicJaxError, r'notes\.txt: cannot be read \(No such file'),
        ('notes.jsonl', None, PicJaxError, r'notes\.jsonl: cannot be read \(No such file'),
    ],
)
def test_bad_files_are_refused(tmp_path, name, data, error, said):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=said):
        read(tmp_path / name)


def test_a_revision_of_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'--revision=main is not valid for .*: expected a hub: source'):
        stream.revision_of(str(tmp_path / 'notes.txt'), 'main')


class Info:
    sha = 'f' * 40


@pytest.fixture
def hub(monkeypatch):
    """A Hub with one table, and what it was asked for."""
    asked = {}

    def load_dataset(name, config, **given):
        asked.update(given | {'name': name, 'config': config})
        rows = [{'text': text, 'url': 'x'} for text in ('first', '', 'second')]
        return datasets.Dataset.from_list(rows).to_iterable_dataset()

    def dataset_info(self, name, revision=None):
        asked.update(info=(name, revision))
        return Info

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', dataset_info)
    return asked


def test_a_table_of_the_hub_is_streamed_at_one_commit(hub):
    source = 'hub:HuggingFaceFW/fineweb:sample-10BT'
    records = list(stream.documents(source, stream.revision_of(source, 'v1'), 4))
    assert [(record.context, record.source) for record in records] == [
        ('first', f'{source} row 0'), ('second', f'{source} row 2'),
    ]  # fmt: skip
    assert hub == {
        'name': 'HuggingFaceFW/fineweb', 'config': 'sample-10BT', 'split': 'train', 'streaming': True,
        'revision': 'f' * 40, 'info': ('HuggingFaceFW/fineweb', 'v1'),
    }  # fmt: skip


def test_a_stream_that_breaks_says_where(hub, monkeypatch):
    def rows():
        yield {'text': 'first'}
        raise OSError('connection reset\nby peer')

    monkeypatch.setattr(datasets, 'load_dataset', lambda *args, **given: rows())
    documents = stream.documents('hub:o/n', 'f', 4)
    assert next(documents).context == 'first'
    with pytest.raises(PicJaxError, match=r'^hub:o/n: split train reading stopped after row 0 \(connection reset\)$'):
        next(documents)


def test_a_data_set_that_cannot_be_found(hub, monkeypatch):
    def fail(*args, **given):
        raise OSError('no network')

    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', fail)
    with pytest.raises(PicJaxError, match=r'hub:o/n: cannot be found \(no network\)'):
        stream.revision_of('hub:o/n')
    monkeypatch.setattr(datasets, 'load_dataset', fail)
    with pytest.raises(PicJaxError, match=r'hub:o/n: split train cannot be loaded \(no network\)'):
        next(stream.documents('hub:o/n', 'f', 4))
