import numpy as np
import pytest

from pic_jax.config import CorpusConfig, DataConfig
from pic_jax.data import examples, generator, readers, tokenise
from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.loader import Batches, eval_batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError, PicJaxError

EOS = 2
CFG = DataConfig(context_length=8, target_length=3, answer_length=6, min_context=2, buckets=(4, 8))


def documents(*lengths):
    """Document i holds the tokens 100 i, 100 i + 1, ..."""
    none = np.zeros(0, np.int32)
    arrays = [np.arange(100 * i, 100 * i + length, dtype=np.int32) for i, length in enumerate(lengths, start=1)]
    return [TokenisedRecord(tokens, none, none, None, (), '') for tokens in arrays]


def equal(a, b):
    assert a.keys() == b.keys()
    return all(equal(a[k], b[k]) if isinstance(a[k], dict) else np.array_equal(a[k], b[k]) for k in a)


def test_batches_depend_on_seed_and_step_only():
    records = documents(*range(20, 30))
    make = lambda seed: Batches(records, CFG, ('ae', 'lm'), EOS, batch_size=4, seed=seed)
    first, second, other = make(3), make(3), make(4)
    forward = [first[step] for step in range(8)]
    backward = [second[step] for step in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert equal(make(3)[1000], first[1000])
    assert not equal(forward[0], other[0])


def test_an_epoch_draws_each_record_once_in_a_new_order_with_new_windows():
    batches = Batches(documents(*[40] * 9), CFG, ('lm',), EOS, batch_size=3, seed=0)
    drawn = [batches[step] for step in range(6)]
    order = np.concatenate([batch['index'] for batch in drawn])
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9].tolist() != order[9:].tolist()
    starts = np.concatenate([batch['context'][:, 0] % 100 for batch in drawn])
    assert sorted(starts[:9]) != sorted(starts[9:])


def test_batches_may_span_epochs():
    batches = Batches(documents(*[20] * 5), CFG, ('lm',), EOS, batch_size=3, seed=0)
    order = np.concatenate([batches[step]['index'] for step in range(5)])
    assert all(sorted(order[first : first + 5]) == [0, 1, 2, 3, 4] for first in (0, 5, 10))


def test_one_batch_literally():
    (batch,) = eval_batches(documents(5, 6), CFG, ('ae', 'lm'), EOS, batch_size=2, limit=9)
    other = batch.pop('other')
    assert other['context'].tolist() == [[200, 201, 202, 0], [100, 101, 0, 0]]
    assert other['context_length'].tolist() == [3, 2]
    expected = {
        'context': [[100, 101, 0, 0], [200, 201, 202, 0]],
        'context_length': [2, 3],
        'index': [0, 1],
        'ae': {
            'tokens': [[100, 101, EOS, 0, 0], [200, 201, 202, EOS, 0]],
            'is_target': [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]],
        },
        'lm': {'tokens': [[102, 103, 104], [203, 204, 205]], 'is_target': [[1, 1, 1], [1, 1, 1]]},
    }
    assert equal(batch, expected)
    assert batch['context'].dtype == batch['context_length'].dtype == batch['index'].dtype == np.int32
    assert (batch['lm']['tokens'].dtype, batch['lm']['is_target'].dtype) == (np.int32, bool)


def test_answer_targets_literally():
    record = TokenisedRecord(*(np.array(ids, np.int32) for ids in ([5, 5], [6, 7], [8])), 'q', ('a',), '')
    (batch,) = eval_batches([record], CFG, ('ft',), EOS, batch_size=1, limit=1)
    assert batch['ft']['tokens'].tolist() == [[6, 7, 8, EOS, 0, 0]]
    assert batch['ft']['is_target'].tolist() == [[False, False, True, True, False, False]]


def test_targets_of_several_questions_literally():
    context, question, answer = (np.array(ids, np.int32) for ids in ([5, 5], [6], [8]))
    record = TokenisedRecord(context, question, answer, 'q', ('a',), '', more=((question, answer),))
    (batch,) = eval_batches([record], CFG, ('ft',), EOS, batch_size=1, limit=1)
    assert batch['ft']['tokens'].tolist() == [[6, 8, EOS, 6, 8, EOS]]
    assert batch['ft']['is_target'].tolist() == [[False, True, True, False, True, True]]


def test_scored_questions_have_room_for_the_longest_and_no_more():
    """In steps of 16, the same in every batch, and never more than data.answer_length."""
    ids = lambda count: np.full(count, 7, np.int32)
    pair = ids(8), ids(2)
    records = [
        TokenisedRecord(ids(5), *pair, 'q', ('a',), ''),
        TokenisedRecord(ids(5), *pair, 'q', ('a',), '', more=(pair,)),
    ]
    for room, chosen, expected in (200, records[:1], 16), (200, records, 32), (24, records, 24):
        cfg = DataConfig(context_length=8, min_context=2, answer_length=room)
        batches = list(eval_batches(chosen, cfg, ('ft',), EOS, batch_size=1, limit=2))
        assert [batch['ft']['tokens'].shape for batch in batches] == [(1, expected)] * len(chosen)
        training = Batches(records, cfg, ('ft',), EOS, batch_size=1, seed=0)
        assert training[0]['ft']['tokens'].shape == (1, room)


@pytest.mark.parametrize(('length', 'bucket'), [(7, 4), (8, 8), (30, 8)])
def test_bucket_is_the_smallest_that_holds_the_batch(length, bucket):
    (batch,) = eval_batches(documents(5, length), CFG, ('ae', 'lm'), EOS, batch_size=2, limit=2)
    assert batch['context'].shape == (2, bucket)
    assert batch['ae']['tokens'].shape == (2, bucket + 1)
    assert batch['lm']['tokens'].shape == (2, 3)


def test_without_buckets_every_batch_has_the_whole_length():
    cfg = DataConfig(context_length=8, target_length=3, min_context=2)
    assert Batches(documents(5), cfg, ('lm',), EOS, batch_size=2, seed=0)[0]['context'].shape == (2, 8)


def test_evaluation_is_in_order_and_fills_the_last_batch_with_rows_without_targets():
    batches = list(eval_batches(documents(*[30] * 7), CFG, ('ae', 'lm'), EOS, batch_size=3, limit=5))
    assert [batch['index'].tolist() for batch in batches] == [[0, 1, 2], [3, 4, -1]]
    assert batches[0]['context'][:, 0].tolist() == [100, 200, 300]
    last = batches[1]
    assert last['context_length'].tolist() == [8, 8, 1]
    assert last['context'].shape == batches[0]['context'].shape
    for name in ('ae', 'lm'):
        assert last[name]['is_target'][:2].all()
        assert not last[name]['is_target'][2].any()


def test_refusals():
    with pytest.raises(PicJaxError, match='there are no records to train on'):
        Batches([], CFG, ('lm',), EOS, batch_size=1, seed=0)
    with pytest.raises(ConfigError, match='seed=-1 is not valid: expected 0 to 4294967295'):
        Batches(documents(9), CFG, ('lm',), EOS, batch_size=1, seed=-1)
    with pytest.raises(IndexError, match='step=-1 is not valid'):
        Batches(documents(9), CFG, ('lm',), EOS, batch_size=1, seed=0)[-1]


def first_batch(source, objectives, tokenizer, context_length=600):
    cfg = DataConfig(source=source, context_length=context_length, size=20, validation=2, test=2)
    template = tokenise.template('plain', tokenizer)
    parts, dropped = prepare(cfg, objectives, tokenizer, template, EOS, len(tokenizer), ('train', 'validation', 'test'))
    assert dropped == 0
    return parts, Batches(parts['train'], cfg, objectives, EOS, batch_size=4, seed=0)[0]


def test_from_generated_questions_to_batch(tokenizer):
    parts, batch = first_batch('generated', ('ae', 'ft'), tokenizer)
    questions = DataConfig().corpus.questions
    assert {name: len(part) for name, part in parts.items()} == {
        'train': 20 * questions, 'validation': 2 * questions, 'test': 2 * questions,
    }  # fmt: skip
    for row in range(4):
        record = parts['train'][batch['index'][row]]
        context = tokenizer.decode(batch['context'][row, : batch['context_length'][row]])
        answer = tokenizer.decode(batch['ft']['tokens'][row][batch['ft']['is_target'][row]])
        assert answer == f' {record.golds[0]}</s>'
        assert record.golds[0] in context


def test_from_text_file_to_batch(tokenizer, tmp_path):
    records = generator.generate(CorpusConfig(questions=1), 'train', 20, seed=0)
    text = '\n\n'.join(record.context for record in records)
    (tmp_path / 'notes.txt').write_text(text)
    _, batch = first_batch(str(tmp_path / 'notes.txt'), ('lm',), tokenizer, context_length=100)
    for row in range(4):
        context = batch['context'][row, : batch['context_length'][row]]
        assert tokenizer.decode(np.concatenate([context, batch['lm']['tokens'][row]])) in text


def test_generated_documents_are_texts_without_questions(tokenizer):
    parts, batch = first_batch('generated', ('lm',), tokenizer)
    assert {name: len(part) for name, part in parts.items()} == {'train': 20, 'validation': 2, 'test': 2}
    assert batch['lm']['is_target'].all()


def test_real_stories(assets, monkeypatch):
    monkeypatch.setenv('PIC_JAX_ASSETS', str(assets))
    cfg = DataConfig(source='$PIC_JAX_ASSETS/tinystories.jsonl', validation=100, test=300)
    tokenizer = tokenise.load_tokenizer(assets / 'stories260K-hf')
    test = readers.split(readers.read(cfg.source, 256), cfg.validation, cfg.test)['test'][:40]
    template = tokenise.template('plain', tokenizer)
    settings = tokenizer, template, cfg, ('lm',), tokenizer.eos_token_id, len(tokenizer)
    records, dropped = examples.tokenise_records(test, *settings)
    assert len(records) + dropped == 40
    for batch in eval_batches(records, cfg, ('lm',), tokenizer.eos_token_id, 16, len(records)):
        real = batch['index'] >= 0
        assert batch['lm']['is_target'].sum() == 64 * real.sum()
        record = records[batch['index'][0]]
        n = batch['context_length'][0]
        assert np.array_equal(
            record.context[: n + 64], np.concatenate([batch['context'][0, :n], batch['lm']['tokens'][0]])
        )
