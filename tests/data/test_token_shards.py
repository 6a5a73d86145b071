"""Documents read back from shards: equal to tokenising the source, read when asked for, refused where damaged."""

import hashlib
import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pic_jax.config import CorpusConfig, DataConfig
from pic_jax.data import generator, stream, token_shards
from pic_jax.data.examples import packed
from pic_jax.data.loader import Batches, eval_batches
from pic_jax.data.prepare import prepare
from pic_jax.data.shard_writer import Settings, finish, write_shards
from pic_jax.data.tokenise import PROBES, fingerprint, load_tokenizer, template
from pic_jax.errors import ConfigError, PicJaxError

LENGTHS = dict(context_length=24, target_length=8, min_context=8, validation=5, test=6)
SPLITS = ('train', 'validation', 'test')


def shard(source, folder, tokenizer, passage_tokens=32, size=7):
    revision = stream.revision_of(str(source))
    settings = Settings('x', revision, 'here', fingerprint(tokenizer), 500, 2, size, None, passage_tokens)
    write_shards(stream.documents(str(source), revision, passage_tokens), tokenizer, settings, folder, 0, 1, print)
    assert finish(folder) is not None
    return f'arrayrecord:{folder}'


def prepared(source, tokenizer, objectives=('lm',), splits=SPLITS, **options):
    cfg = DataConfig(source=str(source), **(LENGTHS | options))
    return cfg, *prepare(cfg, objectives, tokenizer, template('plain', tokenizer), 2, len(tokenizer), splits)


@pytest.fixture
def notes(tmp_path):
    """30 documents of many lengths, some too short for the windows."""
    texts = [record.context for record in generator.generate(CorpusConfig(questions=1), 'train', 30, seed=6)]
    lines = [json.dumps({'text': text[: 10 + 20 * (7 * i % 11)]}) for i, text in enumerate(texts)]
    (tmp_path / 'notes.jsonl').write_text('\n'.join(lines) + '\n\n')
    return tmp_path / 'notes.jsonl'


@pytest.fixture
def folder(notes, tmp_path, tokenizer):
    """The same as shards of 7."""
    shard(notes, tmp_path / 'tokens', tokenizer)
    return tmp_path / 'tokens'


@pytest.mark.parametrize('objectives', [('lm',), ('ae',), ('ae', 'lm'), ()])
def test_records_are_those_of_the_source(notes, folder, tokenizer, objectives):
    _, direct, direct_dropped = prepared(notes, tokenizer, objectives)
    _, stored, dropped = prepared(f'arrayrecord:{folder}', tokenizer, objectives)
    assert dropped == direct_dropped > 0
    assert [len(stored[name]) for name in SPLITS] == [len(direct[name]) for name in SPLITS]
    for name in SPLITS:
        for ours, theirs in zip(stored[name], direct[name], strict=True):
            assert ours.context.dtype == np.int32
            assert np.array_equal(ours.context, theirs.context)
            assert (len(ours.question), len(ours.answer), ours.prompt, ours.golds) == (0, 0, None, ())


def test_an_id_that_the_model_lacks_is_refused_when_it_is_read(folder, tokenizer):
    cfg = DataConfig(source=f'arrayrecord:{folder}', **LENGTHS)
    settings = template('plain', tokenizer), 2, 300
    parts, _ = prepare(cfg, ('lm',), tokenizer, *settings, SPLITS)
    with pytest.raises(PicJaxError, match=r'document \d+ holds token \d+: expected ids below 300'):
        list(parts['train'])


def test_a_document_of_just_the_least_length_is_kept(notes, folder, tokenizer):
    lengths = np.fromfile(folder / 'lengths.bin', '<u4')
    least = dict(min_context=int(np.sort(lengths)[12]), context_length=200)
    _, direct, direct_dropped = prepared(notes, tokenizer, ('ae',), **least)
    _, stored, dropped = prepared(f'arrayrecord:{folder}', tokenizer, ('ae',), **least)
    assert dropped == direct_dropped == (lengths < least['min_context']).sum()
    assert sum(map(len, stored.values())) == sum(map(len, direct.values()))


def test_passages_of_a_text_file_are_those_of_the_source(tmp_path, tokenizer):
    records = generator.generate(CorpusConfig(questions=1), 'train', 20, seed=0)
    (tmp_path / 'notes.md').write_bytes('\r\n\r\n'.join(record.context for record in records).encode('utf-8-sig'))
    source = shard(tmp_path / 'notes.md', tmp_path / 'tokens', tokenizer, passage_tokens=24 + 8)
    _, direct, _ = prepared(tmp_path / 'notes.md', tokenizer)
    _, stored, _ = prepared(source, tokenizer)
    assert len(stored['train']) > 4
    for name in SPLITS:
        assert [record.context.tolist() for record in stored[name]] == [r.context.tolist() for r in direct[name]]


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], dict):
            same(a[key], b[key])
        else:
            assert np.array_equal(a[key], b[key]), key


def test_batches_are_those_of_the_source(notes, folder, tokenizer):
    """Windows start anywhere, so this is about the order and the random starts too."""
    made = []
    for source in (notes, f'arrayrecord:{folder}'):
        cfg, parts, _ = prepared(source, tokenizer)
        training = Batches(packed(parts['train'], cfg, 2), cfg, ('lm',), 2, batch_size=4, seed=3)
        scored = list(eval_batches(parts['validation'], cfg, ('lm',), 2, batch_size=2, limit=3))
        made.append([training[step] for step in (0, 1, 2, 40)] + scored)
    for ours, theirs in zip(*made, strict=True):
        same(ours, theirs)


def test_documents_are_read_when_they_are_asked_for(folder, tokenizer, monkeypatch):
    read = []
    source = token_shards.grain.sources.ArrayRecordDataSource
    original = source.__getitem__
    monkeypatch.setattr(source, '__getitem__', lambda self, key: read.append(key) or original(self, key))
    cfg, parts, _ = prepared(f'arrayrecord:{folder}', tokenizer)
    training = packed(parts['train'], cfg, 2)
    Batches(training, cfg, ('lm',), 2, batch_size=4, seed=0)
    assert parts['test'][:2][1:].__len__() == 1
    assert read == []
    Batches(training, cfg, ('lm',), 2, batch_size=4, seed=0)[0]
    assert len(read) == 4


def test_a_slice_is_a_view_and_ends_where_a_list_would(folder, tokenizer):
    train = prepared(f'arrayrecord:{folder}', tokenizer, splits=('train',))[1]['train']
    everything = list(train)
    for part in (slice(None, 3), slice(2, None, 2), slice(5, 10**6), slice(-2, None)):
        assert [record.source for record in train[part]] == [record.source for record in everything[part]]
    assert train[-1].source == everything[-1].source
    with pytest.raises(IndexError):
        train[len(train)]


def test_only_the_splits_asked_for(folder, tokenizer):
    _, parts, dropped = prepared(f'arrayrecord:{folder}', tokenizer, splits=('test',))
    assert parts.keys() == {'test'}
    assert dropped <= 6


def test_the_folder_may_start_at_a_variable(folder, tokenizer, monkeypatch):
    monkeypatch.setenv('NOTES', str(folder.parent))
    assert len(prepared('arrayrecord:$NOTES/tokens', tokenizer)[1]['train']) > 0
    monkeypatch.delenv('NOTES')
    with pytest.raises(ConfigError, match='NOTES is not set'):
        prepared('arrayrecord:$NOTES/tokens', tokenizer)


def test_another_tokenizer_is_refused(folder, tiny_target):
    other = load_tokenizer(tiny_target)
    with pytest.raises(
        ConfigError, match=r'data\.source=arrayrecord:.* has tokenizer_sha256=\w{12}, the target of this'
    ):
        prepared(f'arrayrecord:{folder}', other)


@pytest.mark.parametrize(('objectives', 'options'), [(('ft',), {}), (('lm',), {'questions_per_example': 2})])
def test_questions_are_refused(folder, tokenizer, objectives, options):
    with pytest.raises(ConfigError, match=r'objective\.ft and data\.questions_per_example have no data'):
        prepared(f'arrayrecord:{folder}', tokenizer, objectives, **options)


def test_splits_that_leave_nothing_and_windows_that_nothing_fills(folder, tokenizer):
    with pytest.raises(ConfigError, match=r'data\.validation=25 and data\.test=6 .* below the 30 groups'):
        prepared(f'arrayrecord:{folder}', tokenizer, validation=25)
    with pytest.raises(
        PicJaxError, match=r'all 19 documents are too short \(the first is .* document 0\): .* 508 tokens'
    ):
        prepared(f'arrayrecord:{folder}', tokenizer, target_length=500)


def remove(name):
    return lambda folder: (folder / name).unlink()


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edited_shard(path, **changes):
    shards = json.loads(path.read_text())['shards']
    edited(path, shards=[shards[0] | changes, *shards[1:]])


def index(**changes):
    return lambda folder: edited(folder / 'index.json', **changes)


def overwrite(name, data):
    return lambda folder: (folder / name).write_bytes(data)


SHARD = 'tokens-00003.arrayrecord'
DAMAGE = {
    'no index': (remove('index.json'), r'index\.json: no such file: expected a folder that'),
    'not JSON': (overwrite('index.json', b'{'), r'index\.json: not valid JSON'),
    'format': (index(format='x'), r"format='x' is not valid: expected 'pic-tok"),
    'version': (index(format_version=2), 'format_version=2 is not valid'),
    'fields': (index(fields=['ids']), r"fields=\['ids'\] is not valid"),
    'dtype': (index(dtype='int64'), "dtype='int64' is not valid"),
    'type': (index(vocab_size='500'), "vocab_size='500' is not valid: expected int"),
    'shards': (index(shards=[3]), 'file=None is not valid: expected str'),
    'sums': (index(tokens=3), 'tokens are not the sums over its shards'),
    'count': (index(documents=29), r'lengths\.bin has 30 lengths: expected 29'),
    'escape': (lambda folder: edited_shard(folder / 'index.json', file='../x'), "'../x' is not the name of a file"),
    'no lengths': (remove('lengths.bin'), r'lengths\.bin: cannot be read'),
    'lengths': (overwrite('lengths.bin', bytes(120)), r'the lengths of tokens-00000\.arrayrecord do not'),
    'no shard': (remove(SHARD), rf'{SHARD}: no such file'),
    'cut shard': (overwrite(SHARD, b'cut'), rf'{SHARD} has 3 bytes: expected \d+'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_folder_is_refused(folder, tokenizer, name):
    damage, said = DAMAGE[name]
    damage(folder)
    with pytest.raises(PicJaxError, match=said) as caught:
        prepared(f'arrayrecord:{folder}', tokenizer)
    assert str(folder) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_bytes_that_changed_are_found_when_they_are_read(folder, tokenizer):
    path = folder / 'tokens-00000.arrayrecord'
    data = bytearray(path.read_bytes())
    start = data.index(b'\x28\xb5\x2f\xfd')  # of the first zstd frame: a document
    data[start + 4 : start + 12] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(PicJaxError, match=r'tokens document \d+: cannot be read'):
        list(prepared(f'arrayrecord:{folder}', tokenizer, (), min_context=1)[1]['train'])


def test_documents_that_do_not_fit_the_index_are_refused(folder, tokenizer):
    edited(folder / 'index.json', dtype='uint32')
    train = prepared(f'arrayrecord:{folder}', tokenizer)[1]['train']
    with pytest.raises(PicJaxError, match=r'bytes: expected \d+ tokens'):
        train[0]


def test_an_index_of_another_vocabulary_is_refused(folder, tokenizer):
    edited(folder / 'index.json', vocab_size=9)
    with pytest.raises(PicJaxError, match=r'index\.json: vocab_size=9 is not valid'):
        prepared(f'arrayrecord:{folder}', tokenizer)


def test_the_sha256_of_a_tokenizer_is_what_the_format_says(tokenizer, tokenizer_folder):
    """Computed again from tokenizer.json alone, with the tokenizers library."""
    plain = Tokenizer.from_file(str(tokenizer_folder / 'tokenizer.json'))
    vocabulary = [[index, plain.id_to_token(index)] for index in range(plain.get_vocab_size())]
    probed = [plain.encode(text, add_special_tokens=False).ids for text in PROBES]
    text = json.dumps([vocabulary, probed], ensure_ascii=False, separators=(',', ':'))
    assert fingerprint(tokenizer) == hashlib.sha256(text.encode()).hexdigest()


def test_a_tokenizer_is_known_by_what_it_does(tokenizer, tokenizer_folder, tmp_path):
    """Not by its files: not when they are written again, but when it cuts text otherwise with the same vocabulary."""
    ours = fingerprint(tokenizer)
    tokenizer.chat_template = '{{ messages }}'
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(load_tokenizer(tmp_path)) == ours
    rules = json.loads((tokenizer_folder / 'tokenizer.json').read_text())
    rules['pre_tokenizer']['add_prefix_space'] = True
    (tmp_path / 'tokenizer.json').write_text(json.dumps(rules))
    other = AutoTokenizer.from_pretrained(tmp_path)
    assert other.get_vocab() == tokenizer.get_vocab()
    assert fingerprint(other) != ours
