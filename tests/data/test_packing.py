"""Short documents joined into rows: whole, in order, as many as fit, and the same wherever they are read."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pic_jax.cli.main import main
from pic_jax.config import CorpusConfig, DataConfig
from pic_jax.data import generator, stream, token_shards
from pic_jax.data.examples import TokenisedRecord, packed
from pic_jax.data.loader import Batches, eval_batches
from pic_jax.data.packing import Packed, next_fit, pack
from pic_jax.data.prepare import prepare
from pic_jax.data.shard_writer import Settings, finish, write_shards
from pic_jax.data.tokenise import encode, fingerprint, template
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation import reconstruction
from pic_jax.models.decoder import Decoder
from pic_jax.models.generation import _cut

EOS = 2
LENGTHS = dict(context_length=24, target_length=8, min_context=8, validation=12, test=15)
SPLITS = ('train', 'validation', 'test')


def document(tokens, source='f:1'):
    tokens, nothing = np.asarray(tokens, np.int32), np.zeros(0, np.int32)
    return TokenisedRecord(tokens, nothing, nothing, None, (), source)


def documents(lengths):
    """Tokens count upwards from 10 over all documents, so that none is the end token."""
    starts = 10 + np.cumsum([0, *lengths])
    return [document(np.arange(starts[i], starts[i] + n), f'f:{i}') for i, n in enumerate(lengths)]


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 40))
def test_rows_hold_every_document_whole_in_order_and_as_many_as_fit(lengths, length):
    rows = list(pack(documents(lengths), np.array(lengths, np.uint32), length, 0, EOS))
    held = [np.split(row.context, np.flatnonzero(row.context == EOS)) for row in rows]
    held = [[part[part != EOS].tolist() for part in parts] for parts in held]
    assert [part for parts in held for part in parts] == [record.context.tolist() for record in documents(lengths)]
    for number, parts in enumerate(held):
        tokens = len(rows[number].context)
        assert tokens == sum(map(len, parts)) + len(parts) - 1
        assert tokens <= length or len(parts) == 1
        if number + 1 < len(held):
            assert tokens + 1 + len(held[number + 1][0]) > length  # the next document would not have fitted


@pytest.mark.parametrize(
    ('lengths', 'rows'),
    [
        ([4, 5], [(0, 2)]),  # 4, an end token and 5 are 10
        ([5, 5], [(0, 1), (1, 2)]),
        ([3, 40, 3, 3], [(0, 1), (1, 2), (2, 4)]),
        ([10, 1, 8], [(0, 1), (1, 3)]),
        ([0, 0, 9], [(0, 2), (2, 3)]),
        ([], []),
    ],
)
def test_rows_of_ten_literally(lengths, rows):
    assert [tuple(row) for row in next_fit(np.array(lengths, np.uint32), 10).tolist()] == rows


def test_a_row_is_joined_and_named_by_its_ends():
    found = pack(documents([2, 3, 40, 1]), np.array([2, 3, 40, 1]), 8, 2, EOS)
    assert [row.source for row in found] == ['f:0-1', 'f:2']  # the last one is shorter than 2
    assert found[0].context.tolist() == [10, 11, EOS, 12, 13, 14]
    assert found[0].context.dtype == np.int32
    assert (len(found), found.num_documents, [row.source for row in found[1:]]) == (2, 3, ['f:2'])
    assert found[-1].context.tolist() == list(range(15, 55))


@pytest.mark.parametrize(
    ('first', 'last', 'said'),
    [
        ('a.jsonl:9', 'a.jsonl:12', 'a.jsonl:9-12'),
        ('a.jsonl:123', 'a.jsonl:124', 'a.jsonl:123-124'),
        ('hub:x/y row 3', 'hub:x/y row 7', 'hub:x/y row 3-7'),
        ('a.json: question q1', 'a.json: question x', 'a.json: question q1 to a.json: question x'),
        ('a:1', 'b:1', 'a:1 to b:1'),
    ],
)
def test_sources_of_rows(first, last, said):
    rows = pack([document([5], first), document([6], last)], np.array([1, 1]), 3, 0, EOS)
    assert [row.source for row in rows] == [said]


def test_what_is_told_at_the_start():
    lengths = np.array([4, 4, 1, 30, 9, 5])  # rows of 9, 1, 30, 9 and 5; the one of 1 is left out
    told = pack(documents(lengths), lengths, 10, 2, EOS).told()
    assert told == 'packed 5 documents into 4 rows, 18% padding instead of 36%'  # (1 + 0 + 1 + 5) / 40, 18 / 50


@pytest.fixture
def notes(tmp_path):
    """90 documents, most of them too short for the windows, a few too long for a row."""
    texts = [record.context for record in generator.generate(CorpusConfig(questions=1), 'train', 90, seed=6)]
    texts = [f'{i}: {text[: 10 + 5 * (i % 5) if i % 13 else 300]}' for i, text in enumerate(texts)]
    lines = [json.dumps({'text': text}) for text in texts]
    (tmp_path / 'notes.jsonl').write_text('\n'.join(lines) + '\n')
    return tmp_path / 'notes.jsonl'


@pytest.fixture
def sources(notes, tmp_path, tokenizer):
    """The same documents as a file and as shards of 7."""
    revision = stream.revision_of(str(notes))
    settings = Settings('x', revision, 'here', fingerprint(tokenizer), 500, EOS, 7, None, None)
    write_shards(stream.documents(str(notes), revision, 32), tokenizer, settings, tmp_path / 'tokens', 0, 1, print)
    assert finish(tmp_path / 'tokens') is not None
    return notes, f'arrayrecord:{tmp_path / "tokens"}'


def prepared(source, tokenizer, objectives=('lm',), splits=SPLITS, **options):
    cfg = DataConfig(source=str(source), **(LENGTHS | dict(pack=True) | options))
    return cfg, *prepare(cfg, objectives, tokenizer, template('plain', tokenizer), EOS, len(tokenizer), splits)


def apart(rows):
    """The documents of rows, as lists of ids."""
    return [part for row in rows for part in ' '.join(map(str, row.context)).split(f' {EOS} ')]


@pytest.mark.parametrize('objectives', [('lm',), ('ae',), ('ae', 'lm')])
def test_shards_give_the_rows_of_their_source(sources, tokenizer, objectives):
    direct, stored = (prepared(source, tokenizer, objectives)[1:] for source in sources)
    assert direct[1] == stored[1]
    for name in SPLITS:
        assert isinstance(stored[0][name], Packed)
        assert [row.context.tolist() for row in stored[0][name]] == [row.context.tolist() for row in direct[0][name]]
        assert all(row.context.dtype == np.int32 for row in stored[0][name])
    assert direct[0]['train'][1].source == 'notes.jsonl:2-3'
    assert stored[0]['train'][1].source.endswith('tokens document 1-2')


@pytest.mark.parametrize('kind', [0, 1])
def test_no_row_has_documents_of_two_splits(sources, notes, tokenizer, kind):
    """Nor does any go missing, whatever is at the ends of the splits."""
    ids = [encode(tokenizer, json.loads(line)['text']) for line in notes.read_text().splitlines()]
    ids = [' '.join(map(str, document)) for document in ids]
    expected = {'train': ids[:63], 'validation': ids[63:75], 'test': ids[75:]}
    _, parts, dropped = prepared(sources[kind], tokenizer, min_context=1, target_length=1)
    assert dropped == 0
    for name in SPLITS:
        assert apart(parts[name]) == expected[name]


def test_what_is_too_short_is_counted_after_packing(sources, tokenizer):
    for source in sources:
        _, plain, left_out = prepared(source, tokenizer, pack=False)
        cfg, rows, dropped = prepared(source, tokenizer)
        assert left_out > 40
        assert dropped < 10
        least = cfg.min_context + cfg.target_length
        assert min(len(row.context) for part in rows.values() for row in part) >= least
        joined = sum(part.num_documents for part in rows.values())
        assert joined == 90 - dropped
        assert joined > max(sum(map(len, rows.values())), sum(map(len, plain.values())))


def test_documents_that_are_too_short_even_joined(sources, tokenizer):
    for source in sources:
        with pytest.raises(PicJaxError, match=r'all 1 documents are too short, even joined by data\.pack \(the first'):
            prepared(source, tokenizer, validation=1, splits=('validation',), min_context=24)


def test_batches_do_not_depend_on_processes_or_on_where_a_run_goes_on(sources, tokenizer):
    """Two processes that read the shards, each its half, from step 3 on, against one that read the file from 0 on."""
    made = []
    for source, halves, steps in (sources[0], [range(4)], range(6)), (sources[1], [range(2), range(2, 4)], range(3, 6)):
        cfg, parts, _ = prepared(source, tokenizer, ('ae', 'lm'))
        rows = packed(parts['train'], cfg, EOS)
        per_process = [Batches(rows, cfg, ('ae', 'lm'), EOS, 4, seed=3, rows=half) for half in halves]
        drawn = [[batches[step] for batches in per_process] for step in steps]
        made.append({key: [np.concatenate([b[key] for b in step]) for step in drawn] for key in ('context', 'index')})
        scored = list(eval_batches(parts['validation'], cfg, ('lm',), EOS, batch_size=2, limit=3))
        made[-1]['scored'] = [batch['context'] for batch in scored]
    assert np.array_equal(made[0]['context'][3:], made[1]['context'])
    assert np.array_equal(made[0]['index'][3:], made[1]['index'])
    assert np.array_equal(made[0]['scored'], made[1]['scored'])


def test_documents_on_disk_are_read_when_their_row_is(sources, tokenizer, monkeypatch):
    read = []
    source = token_shards.grain.sources.ArrayRecordDataSource
    original = source.__getitem__
    monkeypatch.setattr(source, '__getitem__', lambda self, key: read.append(key) or original(self, key))
    cfg, parts, _ = prepared(sources[1], tokenizer)
    assert packed(parts['train'], cfg, EOS).told().startswith('packed ')
    assert read == []
    first, last = parts['train'][1].source.rsplit(' ', 1)[1].split('-')
    assert read == list(range(int(first), int(last) + 1))


def test_questions_are_refused(question_data, tokenizer):
    said = r'^data\.pack=True is not valid: expected False, since questions\.jsonl:1 is a question about one context$'
    with pytest.raises(ConfigError, match=said):
        prepared(question_data, tokenizer, ('ft',), validation=3, test=3)
    with pytest.raises(ConfigError, match=r'^data\.pack=True is not valid: expected False for data\.questions_per_ex'):
        DataConfig(pack=True, questions_per_example=2)
    assert prepared(question_data, tokenizer, ('ae',), validation=3, test=3)[2] == 0  # their texts alone


@pytest.mark.parametrize('kind', [0, 1])
def test_an_end_token_that_the_model_lacks_is_refused(sources, tokenizer, kind):
    cfg = DataConfig(source=str(sources[kind]), pack=True, **LENGTHS)
    tokenizer.add_special_tokens({'eos_token': '<end>'})
    with pytest.raises(PicJaxError, match=r'data\.pack: token id 500 is not valid: expected 0 to 499'):
        prepare(cfg, ('lm',), tokenizer, template('plain', tokenizer), EOS, 500, SPLITS)


def test_a_tokenizer_without_an_end_token_is_refused(sources, tokenizer):
    tokenizer.eos_token = None
    for source in sources:
        with pytest.raises(ConfigError, match=r'^data\.pack=True is not valid: .* the tokenizer has no end token'):
            prepared(source, tokenizer)


def test_a_training_with_packed_rows(notes, tiny_config_file, tmp_path, capsys):
    """Most of these documents are too short alone. A run goes on with the setting it began with."""
    words = [f'--config={tiny_config_file}', f'--workdir={tmp_path / "run"}', f'--config.data.source={notes}',
             '--config.train.steps=2', '--config.objective.ae=0.5', '--config.data.min_context=2']  # fmt: skip
    assert main(['train', *words, '--config.data.pack=True']) == 0
    said = ''.join(capsys.readouterr())
    assert 'packed 81 documents into ' in said
    assert 'too short' not in said
    assert main(['train', *words]) == 2
    assert 'data.pack: True -> False' in capsys.readouterr().err


def test_a_row_is_written_out_again_up_to_its_last_end(tiny_config, random_params, bare_run, monkeypatch):
    """The end tokens between its documents do not end the copy; a batch may have rows with and without some."""
    config = tiny_config(eos_token_ids=(EOS,))
    run = bare_run(
        config, random_params(Decoder(config)), dict(method='icae', ratio=4, context_length=8), dict(ae=1.0, lm=0.0),
        (5, 7), dict(context_length=8, min_context=2),
    )  # fmt: skip
    texts = [[9, 9, EOS, 8, 8, EOS, 7], [9, 9, 9, 9], [4, EOS, 5]]
    batches = list(eval_batches([document(text) for text in texts], run.config.data, ('ae',), EOS, 4, 3))

    def perfect(decoder, params, inputs, max_new_tokens, eos_ids):
        tokens = np.full((4, max_new_tokens), EOS, np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        return _cut(jnp.asarray(tokens), eos_ids)

    monkeypatch.setattr(reconstruction, 'generate', perfect)
    found = reconstruction.reconstruct(run, run.init_trainable(), batches)
    assert [pair.written.tolist() for pair in found] == [pair.context.tolist() for pair in found] == texts
