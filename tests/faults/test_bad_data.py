"""Data files of every kind with something wrong in them: the message names the file, the line and what is expected."""

import io
import json
import sys
from pathlib import Path

import pytest
from refusals import refused

GOOD = {'context': 'Ann came.', 'prompt': 'Who?', 'answers': ['Ann']}


def line(**changes) -> str:
    """The good question with changes; ... drops a field."""
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not ...})


# The second line of a .jsonl, and what is said of it.
LINES = [
    ('{"text": ', 'not valid JSON (Expecting value at column 10)'),
    ('{"text": "a"', "not valid JSON (Expecting ',' delimiter"),
    ("{'text': 'a'}", 'not valid JSON'),
    ('{"text": "a"} {"text": "b"}', 'not valid JSON (Extra data'),
    ('{"text": "a\tb"}', 'not valid JSON (Invalid control character'),
    ('{"text": 1' + '0' * 5000 + '}', 'not valid JSON (Exceeds the limit'),
    ('{"text": ' + '[' * 100_000, 'not valid JSON (nested too deeply)'),
    ('{"a":' * 100_000, 'not valid JSON (nested too deeply)'),
    ('text', 'not valid JSON'),
    ('\0', 'not valid JSON'),
    ('"text"', 'is not a record: expected a JSON object'),
    ('[]', 'is not a record: expected a JSON object'),
    ('[{"text": "a"}]', 'is not a record: expected a JSON object'),
    ('3', 'is not a record: expected a JSON object'),
    ('NaN', 'is not a record: expected a JSON object'),
    ('null', 'is not a record: expected a JSON object'),
    ('{}', 'fields none are not a record'),
    ('{"Text": "a"}', 'fields Text are not a record: expected text, or context'),
    ('{"a\\nb\\u001b[31m": 1}', r'fields a\nb\x1b[31m are not a record'),
    (line(context=...), 'fields prompt, answers are not a record'),
    (line(prompt=...), 'fields context, answers are not a record'),
    (line(answers=...), 'fields context, prompt are not a record'),
    ('{"text": null}', 'text=None is not valid: expected a string'),
    ('{"text": 3}', 'text=3 is not valid: expected a string'),
    ('{"text": ["a"]}', "text=['a'] is not valid: expected a string"),
    ('{"text": {"a": "b"}}', 'is not valid: expected a string'),
    ('{"text": true}', 'text=True is not valid: expected a string'),
    ('{"text": "a \\ud83d b"}', "text is not valid: '\\ud83d' at character 2 is half of a surrogate pair"),
    (line(context=3), 'context=3 is not valid: expected a string'),
    (line(context=None), 'context=None is not valid: expected a string'),
    (line(context=' \n'), 'context is blank'),
    (line(context='\udfff'), 'context is not valid'),
    (line(prompt=None), 'prompt=None is not valid'),
    (line(prompt=['Who?']), "prompt=['Who?'] is not valid"),
    (line(prompt='a\ud800'), 'prompt is not valid'),
    (line(answers=None), 'answers=None is not valid: expected a string or a list of strings'),
    (line(answers=3), 'answers=3 is not valid'),
    (line(answers=[['Ann']]), "answers=[['Ann']] is not valid"),
    (line(answers=['Ann', 3]), "answers=['Ann', 3] is not valid"),
    (line(answers=[None]), 'answers=[None] is not valid'),
    (line(answers={'texts': ['Ann']}), 'is not valid: expected a string or a list'),
    (line(answers={'text': {'a': 1}}), 'is not valid: expected a string or a list'),
    (line(answers=['\ud800']), 'answers is not valid'),
]

QUESTION = {'id': '1', 'question': 'Who?', 'answers': [{'text': 'Ann'}]}


def squad(article: object) -> str:
    return json.dumps({'data': [article]})


def article(**changes) -> str:
    return squad({'title': 'T', 'paragraphs': [{'context': 'Ann came.', 'qas': [QUESTION | changes]}]})


SQUAD = [
    ('{"data": [', ':1: not valid JSON'),
    ('{\n"data": [,]}', ':2: not valid JSON'),
    ('[' * 100_000, 'not valid JSON (nested too deeply)'),
    ('{"data": 1' + '0' * 5000 + '}', 'not valid JSON (Exceeds the limit'),
    ('[]', 'not SQuAD format'),
    ('3', 'not SQuAD format'),
    ('null', 'not SQuAD format'),
    ('{}', "not SQuAD format ('data')"),
    ('{"data": 3}', 'not SQuAD format'),
    ('{"data": "abc"}', 'not SQuAD format'),
    ('{"data": [3]}', 'not SQuAD format'),
    ('{"data": {"a": {}}}', 'not SQuAD format'),
    ('{"data": []}', 'holds no records'),
    (squad({}), "not SQuAD format ('paragraphs')"),
    (squad({'paragraphs': 3}), 'not SQuAD format'),
    (squad({'paragraphs': [{}]}), "not SQuAD format ('qas')"),
    (squad({'paragraphs': [{'qas': [QUESTION]}]}), "not SQuAD format ('context')"),
    (squad({'paragraphs': [{'context': 3, 'qas': [QUESTION]}]}), 'question 1: context=3 is not valid'),
    (squad({'paragraphs': [{'context': 'a', 'qas': {'a': 1}}]}), 'not SQuAD format'),
    (article(question=None), 'question 1: question=None is not valid'),
    (article(question='\ud800'), 'question 1: question is not valid'),
    (article(answers=None), 'not SQuAD format'),
    (article(answers=['Ann']), 'not SQuAD format'),
    (article(answers=[{'start': 3}]), "not SQuAD format ('text')"),
    (article(answers=[{'text': 3}]), 'question 1: answers=[3] is not valid'),
    (article(answers={'text': ['Ann']}), 'not SQuAD format'),
    (article(answers=[]), 'holds no records'),
]  # fmt: skip

# Name, bytes, exit code, and what is said of it.
FILES = [
    ('a.jsonl', b'', 1, 'a.jsonl is empty'),
    ('a.jsonl', b'\n \r\n', 1, 'a.jsonl is empty'),
    ('a.jsonl', b'\xef\xbb\xbf', 1, 'a.jsonl is empty'),
    ('a.jsonl', b'{"text": "caf\xe9"}', 1, 'a.jsonl: byte 13 is not UTF-8 text'),
    ('a.jsonl', '{"text": "a"}'.encode('utf-16'), 1, 'a.jsonl: byte 0 is not UTF-8 text'),
    ('a.jsonl', b'\x1f\x8b\x08\0\0\0\0\0', 1, 'a.jsonl: byte 1 is not UTF-8 text'),
    ('a.jsonl', b'{"text": " "}', 1, 'a.jsonl holds no records'),
    ('a.json', b'\xff', 1, 'a.json: byte 0 is not UTF-8 text'),
    ('a.txt', b' ', 1, 'a.txt is empty'),
    ('a.md', b'\xff', 1, 'a.md: byte 0 is not UTF-8 text'),
    ('a.txt', None, 1, 'a.txt: cannot be read (No such file or directory)'),
    ('a.csv', b'text', 2, "a.csv' is not valid: expected a .jsonl, .json, .txt or .md file"),
    ('a', b'text', 2, "a' is not valid: expected a .jsonl"),
    ('a.JSONL', b'{"text": "a"}', 2, "a.JSONL' is not valid"),
    ('a.parquet', b'PAR1', 2, "a.parquet' is not valid"),
    ('x' * 300 + '.jsonl', None, 1, 'cannot be read (File name too long)'),
]


@pytest.fixture
def train(tmp_path, monkeypatch, tiny_config_file):
    """A function from a source to the command that trains on it."""
    monkeypatch.chdir(tmp_path)
    base = ['train', f'--config={tiny_config_file}', '--workdir=run']
    return lambda source: [*base, f'--config.data.source={source}']


def ids(rows: list) -> list[str]:
    return [ascii(row[0][:40]) for row in rows]


@pytest.mark.parametrize(('text', 'said'), LINES, ids=ids(LINES))
def test_a_bad_line_is_named_by_its_number(train, capsys, text, said):
    Path('a.jsonl').write_text(f'{line()}\n{text}\n{line()}\n')
    refused(capsys, train('a.jsonl'), 1, 'a.jsonl:2: ', said)
    assert not Path('run').exists()


@pytest.mark.parametrize(('text', 'said'), SQUAD, ids=ids(SQUAD))
def test_a_bad_squad_file_is_refused(train, capsys, text, said):
    Path('a.json').write_text(text)
    refused(capsys, train('a.json'), 1, 'a.json', said)


@pytest.mark.parametrize(('name', 'data', 'code', 'said'), FILES, ids=[f'{row[0][-20:]} {row[1]}' for row in FILES])
def test_a_bad_file_is_refused(train, capsys, name, data, code, said):
    if data is not None:
        Path(name).write_bytes(data)
    refused(capsys, train(name), code, said)


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (b'', 'standard input is empty'),
        (b' \n', 'standard input is empty'),
        (b'ab\xff', 'standard input: byte 2 is not'),
    ],
)
def test_bad_standard_input_is_refused(capsys, monkeypatch, tmp_path, data, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data), 'utf-8'))
    refused(capsys, ['compress', '--workdir=tiny_base/pic', '-', '--out=out'], 1, said)
    assert list(tmp_path.iterdir()) == []


CONTEXTS = [
    ('{"text": 3}', 'a.jsonl:2: expected a text or context that is not blank'),
    ('{"body": "a"}', 'a.jsonl:2: expected a text or context'),
    ('{"context": ""}', 'a.jsonl:2: expected a text or context'),
    ('{"text": "\\ud800"}', 'a.jsonl:2: the text is not valid'),
    ('{"text": 1' + '0' * 5000 + '}', 'a.jsonl:2: not valid JSON'),
    ('[' * 100_000, 'a.jsonl:2: not valid JSON (nested too deeply)'),
    ('[1]', 'a.jsonl:2: [1] is not a record'),
]


@pytest.mark.parametrize(('text', 'said'), CONTEXTS, ids=ids(CONTEXTS))
def test_what_is_compressed_is_checked(capsys, monkeypatch, tmp_path, text, said):
    monkeypatch.chdir(tmp_path)
    Path('a.jsonl').write_text(f'{{"text": "good"}}\n{text}\n')
    refused(capsys, ['compress', '--workdir=tiny_base/pic', 'a.jsonl', '--out=out'], 1, said)
    assert not Path('out').exists()


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{"text": "\\ud800"}', 'a.jsonl:2: text is not valid'),
        ('[' * 100_000, 'a.jsonl:2: not valid JSON (nested too deeply)'),
        ('{"text": 1' + '0' * 5000 + '}', 'a.jsonl:2: not valid JSON (Exceeds'),
        (line(), 'a.jsonl:2 is a question: expected documents (text)'),
    ],
    ids=['surrogate', 'deep', 'long', 'question'],
)
def test_what_is_tokenised_is_checked(capsys, monkeypatch, tmp_path, text, said):
    monkeypatch.chdir(tmp_path)
    Path('a.jsonl').write_text(f'{{"text": "good"}}\n{text}\n')
    refused(capsys, ['tokenize', 'a.jsonl', '--base=tiny_base', '--out=tokens'], 1, said)
    assert not Path('tokens/index.json').exists()
