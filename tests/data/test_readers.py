import json

import datasets
import pytest

from pic_jax.data import readers
from pic_jax.data.records import Record
from pic_jax.errors import ConfigError, PicJaxError


def write(folder, name, *lines):
    path = folder / name
    path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding='utf-8')
    return str(path)


def read(source, window=10):
    return readers.read(source, window)


def test_jsonl_text_and_questions(tmp_path):
    path = write(
        tmp_path,
        'a.jsonl',
        {'text': 'one'},
        '',
        {'context': 'two', 'prompt': 'which?', 'answers': ['2', '2', 'II']},
        {'context': 'two', 'question': 'what?', 'answer': 'a number', 'title': 'numbers'},
        {'text': '  '},
        {'context': 'two', 'question': 'unanswerable?', 'answers': []},
        {'input': 'two is II', 'prompt': 'three?', 'answer': 'III', 'task': 'icl'},
        {'context': 'three', 'input': 'not read', 'prompt': 'how?', 'answer': 'so', 'task': 'something else'},
    )
    assert read(path) == [
        Record('one', None, (), 'one', 'a.jsonl:1'),
        Record('two', 'which?', ('2', 'II'), 'two', 'a.jsonl:3'),
        Record('two', 'what?', ('a number',), 'numbers', 'a.jsonl:4'),
        Record('two is II', 'three?', ('III',), 'two is II', 'a.jsonl:7', task='icl'),
        Record('three', 'how?', ('so',), 'three', 'a.jsonl:8', task='qa'),
    ]


def test_spaces_around_a_question_are_not_part_of_it(tmp_path):
    path = write(tmp_path, 'a.jsonl', {'context': ' two ', 'question': ' ' * 2000 + 'what? ', 'answer': ' II'})
    assert [(r.context, r.prompt, r.answers) for r in read(path)] == [(' two ', 'what?', (' II',))]


def test_jsonl_lines_end_only_at_newlines(tmp_path):
    path = write(tmp_path, 'a.jsonl', '{"text": "left\u2028right"}', '{"text": "next"}')
    assert [(r.context, r.source) for r in read(path)] == [('left\u2028right', 'a.jsonl:1'), ('next', 'a.jsonl:2')]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"text": ', r'a\.jsonl:2: not valid JSON \(Expecting value at column 10\)'),
        ('[1]', r'a\.jsonl:2: \[1\] is not a record: expected a JSON object'),
        ('{"body": "x"}', r'a\.jsonl:2: fields body are not a record: expected text, or context \(or input\) with'),
        ('{}', r'a\.jsonl:2: fields none are not a record'),
        ('{"context": "x", "prompt": "y"}', r'a\.jsonl:2: fields context, prompt are not a record'),
        ('{"context": " ", "prompt": "y", "answer": "z"}', r'a\.jsonl:2: context is blank'),
        ('{"text": 3}', r'a\.jsonl:2: text=3 is not valid: expected a string'),
        ('{"context": "x", "prompt": null, "answer": "z"}', r'a\.jsonl:2: prompt=None is not valid'),
        ('{"context": "x", "prompt": "y", "answers": [4]}', r'a\.jsonl:2: answers=\[4\] is not valid: expected a str'),
    ],
)
def test_jsonl_names_the_bad_line(tmp_path, line, message):
    with pytest.raises(PicJaxError, match=message):
        read(write(tmp_path, 'a.jsonl', {'text': 'fine'}, line))


@pytest.mark.parametrize(
    ('name', 'content', 'error', 'message'),
    [
        ('a.jsonl', None, PicJaxError, r'a\.jsonl: cannot be read \(No such file'),
        ('a.txt', ' \n\n', PicJaxError, r'a\.txt is empty'),
        ('a.jsonl', '{"text": ""}', PicJaxError, r'a\.jsonl holds no records'),
        ('a.csv', 'x', ConfigError, r"data\.source='.*a\.csv' is not valid: expected a \.jsonl"),
        ('a.json', '{\n"data": [,]}', PicJaxError, r'a\.json:2: not valid JSON'),
        ('a.json', '{"data": [{"paragraphs": [{}]}]}', PicJaxError, r"a\.json: not SQuAD format \('qas'\)"),
        ('a.json', '[1]', PicJaxError, r'a\.json: not SQuAD format'),
    ],
)
def test_bad_files(tmp_path, name, content, error, message):
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(error, match=message):
        read(str(tmp_path / name))


def test_not_utf8(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'abc\xff')
    with pytest.raises(PicJaxError, match=r'a\.txt: byte 3 is not UTF-8'):
        read(str(tmp_path / 'a.txt'))


def test_environment_variable(tmp_path, monkeypatch):
    write(tmp_path, 'a.jsonl', {'text': 'x'})
    monkeypatch.setenv('SOME_FOLDER', str(tmp_path))
    assert read('$SOME_FOLDER/a.jsonl')[0].context == 'x'
    monkeypatch.delenv('SOME_FOLDER')
    with pytest.raises(ConfigError, match='environment variable SOME_FOLDER is not set'):
        read('$SOME_FOLDER/a.jsonl')


def test_text_becomes_passages_of_whole_paragraphs(tmp_path):
    paragraphs = [letter * 25 for letter in 'abcde']
    records = read(write(tmp_path, 'a.md', '\n\n'.join(paragraphs)), window=8)  # at least 48 characters
    ab, cde = '\n\n'.join(paragraphs[:2]), '\n\n'.join(paragraphs[2:])  # e alone would be too short
    assert [(r.context, r.group, r.source) for r in records] == [(ab, ab, 'a.md:1'), (cde, cde, 'a.md:5')]


def test_text_without_blank_lines_is_cut_at_line_ends(tmp_path):
    records = read(write(tmp_path, 'a.txt', *[letter * 60 for letter in 'abc']))
    assert [r.context[0] for r in records] == ['a', 'b', 'c']


def test_short_text_is_one_record(tmp_path):
    assert [r.context for r in read(write(tmp_path, 'a.txt', 'short'), window=500)] == ['short']


def test_squad(tmp_path):
    questions = [
        {'id': '1', 'question': 'who?', 'answers': [{'text': 'Ann'}, {'text': 'Ann'}, {'text': 'Ann B'}]},
        {'id': '2', 'question': 'why?', 'answers': [], 'is_impossible': True},
    ]
    article = {'title': 'T', 'paragraphs': [{'context': 'Ann B came.', 'qas': questions}]}
    records = read(write(tmp_path, 'a.json', {'version': 'v2.0', 'data': [article]}))
    assert records == [Record('Ann B came.', 'who?', ('Ann', 'Ann B'), 'T', 'a.json: question 1')]


@pytest.fixture
def hub(monkeypatch):
    """A function from columns to the arguments with which datasets.load_dataset was asked for them, in a list."""

    def serve(columns):
        asked = []
        table = datasets.Dataset.from_dict(columns)
        monkeypatch.setattr(datasets, 'load_dataset', lambda *args, **kwargs: asked.append((args, kwargs)) or table)
        return asked

    return serve


@pytest.mark.parametrize(
    ('source', 'name', 'config', 'split'),
    [
        ('hub:o/n', 'o/n', None, 'train'),
        ('hub:o/n:main', 'o/n', 'main', 'train'),
        ('hub:o/n::test', 'o/n', None, 'test'),
        ('hub:o/n:main:validation[:10%]', 'o/n', 'main', 'validation[:10%]'),
    ],
)
def test_hub_names(hub, source, name, config, split):
    asked = hub({'text': ['x']})
    assert [r.context for r in read(source)] == ['x']
    assert asked == [((name, config), {'split': split})]


# The columns of the tables that README names, with rows of our own.
MRQA = {
    'subset': ['SQuAD', 'NewsQA'], 'context': ['[PAR] Ann came.', 'Bob left.'], 'qid': ['1', '2'],
    'context_tokens': [{'tokens': ['Ann'], 'offsets': [6]}, {'tokens': ['Bob'], 'offsets': [0]}],
    'question': ['who came?', 'who left?'], 'question_tokens': [{'tokens': ['who'], 'offsets': [0]}] * 2,
    'detected_answers': [{'text': ['Ann'], 'char_spans': [[6]], 'token_spans': [[1]]}] * 2,
    'answers': [['Ann', 'ann'], ['Bob']],
}  # fmt: skip
SQUAD = {
    'id': ['1', '2'], 'title': ['T', 'T'], 'context': ['Ann came.', 'Bob left.'], 'question': ['who?', 'why?'],
    'answers': [{'text': ['Ann', 'Ann'], 'answer_start': [0, 0]}, {'text': [], 'answer_start': []}],
}  # fmt: skip
PWC = {'input': ['Ann came.'], 'prompt': ['Name the person.'], 'answer': ['Ann']}


@pytest.mark.parametrize(
    ('columns', 'expected'),
    [
        (MRQA, [('[PAR] Ann came.', 'who came?', ('Ann', 'ann')), ('Bob left.', 'who left?', ('Bob',))]),
        (SQUAD, [('Ann came.', 'who?', ('Ann',))]),
        (PWC, [('Ann came.', 'Name the person.', ('Ann',))]),
    ],
    ids=['MRQA', 'SQuAD', 'PwC'],
)
def test_hub_tables_of_questions(hub, columns, expected):
    hub(columns)
    records = read('hub:o/n')
    assert [(r.context, r.prompt, r.answers) for r in records] == expected
    assert {r.task for r in records} == {'qa'}
    assert {r.group for r in records} == ({'T'} if 'title' in columns else {r.context for r in records})


def test_a_folder_as_the_hub_has_it(tmp_path, monkeypatch):
    """Through datasets itself: files named as PwC's are, a config and its splits inferred from them."""
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', str(tmp_path / 'cache'))
    folder = tmp_path / 'PwC'
    folder.mkdir()
    for part, name in (('train', 'Ann'), ('test', 'Bob')):
        write(folder, f'PwC_{part}.jsonl', {'input': f'{name} came.', 'prompt': 'Who?', 'answer': name})
    for source, name in ((f'hub:{folder}', 'Ann'), (f'hub:{folder}:default:test', 'Bob')):
        expected = Record(f'{name} came.', 'Who?', (name,), f'{name} came.', f'{source} row 0')
        assert read(source) == [expected]
    with pytest.raises(PicJaxError, match='split validation cannot be loaded'):
        read(f'hub:{folder}::validation')


def solved(number):
    return f'Question: {number} + {number}?\nAnswer: It doubles. #### {2 * number}'


@pytest.mark.parametrize('rows', [19, 17])
def test_hub_questions_without_a_context_show_each_other_how(hub, rows):
    """As in GSM8K. Blocks of 8 in halves; of the last block 3 rows make halves of 1 and 2, and 1 row is left out."""
    numbers = range(rows)
    hub({'question': [f'{n} + {n}?' for n in numbers], 'answer': [f'It doubles. #### {2 * n}' for n in numbers]})
    halves = [(range(0, 4), range(4, 8)), (range(8, 12), range(12, 16)), (range(16, 17), range(17, 19))]
    expected = [
        Record(
            '\n\n'.join(map(solved, examples)), f'{number} + {number}?', (f'It doubles. #### {2 * number}',),
            f'block {block}', f'hub:openai/gsm8k:main row {number}', task='icl',
        )
        for block, (first, second) in enumerate(halves[: 3 if rows == 19 else 2])
        for examples, asked in ((second, first), (first, second))
        for number in asked
    ]  # fmt: skip
    records = read('hub:openai/gsm8k:main')
    assert records == expected
    assert all(record.prompt not in record.context for record in records)
    parts = readers.split(records, 1, 0)
    assert not {r.prompt for r in parts['train']} & {r.prompt for r in parts['validation']}
    assert not {r.context for r in parts['train']} & {r.context for r in parts['validation']}


def test_hub_columns(monkeypatch):
    table = datasets.Dataset.from_dict(
        {'context': ['c', 'c'], 'question': ['q', 'r'], 'answers': [{'text': ['x', 'y']}, {'text': []}], 'id': [1, 2]}
    )
    asked = []
    monkeypatch.setattr(datasets, 'load_dataset', lambda *args, **kwargs: asked.append((args, kwargs)) or table)
    assert read('hub:owner/name:small') == [Record('c', 'q', ('x', 'y'), 'c', 'hub:owner/name:small row 0')]
    assert asked == [(('owner/name', 'small'), {'split': 'train'})]
    with pytest.raises(PicJaxError, match='hub:o/n row 0: fields id are not a record'):
        readers.from_dataset(table.select_columns(['id']), 'hub:o/n')


def test_hub_failure_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError('no network\nmore')

    monkeypatch.setattr(datasets, 'load_dataset', fail)
    with pytest.raises(PicJaxError, match=r'^hub:o/n: split train cannot be loaded \(no network\)$'):
        read('hub:o/n')


def record(group, context='c'):
    return Record(context, None, (), group, '')


def test_split_keeps_groups_whole_and_counts_from_the_end():
    records = [record(group) for group in 'abacdbe']
    parts = readers.split(records, validation=1, test=2)
    assert {side: [r.group for r in part] for side, part in parts.items()} == {
        'train': ['a', 'b', 'a', 'b'],
        'validation': ['c'],
        'test': ['d', 'e'],
    }


@pytest.mark.parametrize(('validation', 'test'), [(1, 1), (2, 0), (-1, 1)])
def test_split_refuses_an_empty_training_set(validation, test):
    with pytest.raises(ConfigError, match=rf'data\.validation={validation} and data\.test={test} are not valid.* 2 gr'):
        readers.split([record('a'), record('b')], validation, test)


def test_documents_are_the_distinct_contexts():
    records = [Record(context, 'q', ('a',), 'g', 's') for context in 'xyx']
    assert readers.documents(records) == [Record(context, None, (), 'g', 's') for context in 'xy']


def test_real_sources(assets, monkeypatch):
    monkeypatch.setenv('PIC_JAX_ASSETS', str(assets))
    stories = readers.split(read('$PIC_JAX_ASSETS/tinystories.jsonl'), 100, 300)
    assert {side: len(part) for side, part in stories.items()} == {'train': 1400, 'validation': 100, 'test': 300}
    questions = read('$PIC_JAX_ASSETS/xquad_en_0_23.json')
    assert len({r.group for r in questions}) == 24
    assert all(answer in r.context for r in questions for answer in r.answers)
    book = read('$PIC_JAX_ASSETS/books/Peter_Pan.md', window=256)
    assert min(len(r.context) for r in book) > 1500


def test_contexts_of_a_jsonl_by_each_name_of_theirs(tmp_path):
    lines = [{'text': 'a b'}, {'context': 'c', 'prompt': 'd'}, {'input': 'e'}]
    (tmp_path / 'three.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    found = readers.read_contexts(str(tmp_path / 'three.jsonl'))
    assert found == [('three.jsonl:1', 'a b'), ('three.jsonl:2', 'c'), ('three.jsonl:3', 'e')]
