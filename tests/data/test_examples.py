import numpy as np
import pytest

from pic_jax.config import DataConfig
from pic_jax.data import tokenise
from pic_jax.data.examples import TokenisedRecord, make_example, packed, tokenise_records
from pic_jax.data.records import Record
from pic_jax.errors import ConfigError, PicJaxError

EOS = 2
CFG = DataConfig(context_length=4, target_length=2, answer_length=8, min_context=2)


def document(length):
    tokens = np.arange(10, 10 + length, dtype=np.int32)
    return TokenisedRecord(tokens, tokens[:0], tokens[:0], None, (), 'doc')


def question(length=3):
    ids = [np.array(tokens, np.int32) for tokens in ([5] * length, [6, 7], [8, 9])]
    return TokenisedRecord(*ids, 'why?', ('so', 'thus'), 'q')


def unpack(example):
    """Context, and per objective its tokens and those of them that count."""
    return example.context.tolist(), {
        name: (target.tokens.tolist(), target.tokens[target.is_target].tolist())
        for name, target in example.targets.items()
    }


def whole(*tokens):
    return [*tokens], [*tokens]


@pytest.mark.parametrize(
    ('length', 'context', 'continuation'),
    [
        (9, [10, 11, 12, 13], [14, 15]),
        (6, [10, 11, 12, 13], [14, 15]),
        (5, [10, 11, 12], [13, 14]),
        (4, [10, 11], [12, 13]),
    ],
)
def test_lm_window(length, context, continuation):
    example = make_example(document(length), CFG, ('lm',), EOS, None)
    assert unpack(example) == (context, {'lm': whole(*continuation)})
    assert example.context.dtype == example.targets['lm'].tokens.dtype == np.int32


def test_ae_alone_reserves_nothing():
    assert unpack(make_example(document(3), CFG, ('ae',), EOS, None)) == ([10, 11, 12], {'ae': whole(10, 11, 12, EOS)})
    assert unpack(make_example(document(9), CFG, ('ae',), None, None))[1] == {'ae': whole(10, 11, 12, 13)}


def test_ae_and_lm_share_the_window():
    context, targets = unpack(make_example(document(5), CFG, ('ae', 'lm'), EOS, None))
    assert (context, targets) == ([10, 11, 12], {'ae': whole(10, 11, 12, EOS), 'lm': whole(13, 14)})


def test_ft_scores_the_answer_only():
    example = make_example(question(), CFG, ('ft', 'ae'), EOS, np.random.default_rng(0))
    assert unpack(example) == ([5, 5, 5], {'ae': whole(5, 5, 5, EOS), 'ft': ([6, 7, 8, 9, EOS], [8, 9, EOS])})
    assert unpack(make_example(question(), CFG, ('ft',), None, None))[1] == {'ft': ([6, 7, 8, 9], [8, 9])}


CONTEXTS = [np.array(ids, np.int32) for ids in ([5, 5], [5, 5])]  # equal, but two documents


def asked(context, number, length=2):
    question, answer = np.full(length, 10 * number, np.int32), np.array([10 * number + 1], np.int32)
    return TokenisedRecord(CONTEXTS[context], question, answer, f'q{number}', (f'a{number}',), f's{number}')


def packs(records, questions_per_example, answer_length, eos_id=EOS):
    cfg = DataConfig(questions_per_example=questions_per_example, answer_length=answer_length)
    results = packed(records, cfg, eos_id)
    for record in results:
        tokens = make_example(record, cfg, ('ft',), eos_id, None).targets['ft'].tokens
        assert len(tokens) <= answer_length
    return [[int(answer[0]) // 10 for _, answer in ((r.question, r.answer), *r.more)] for r in results]


def test_questions_on_a_context_become_one_example_of_so_many():
    records = [asked(0, number) for number in range(1, 6)] + [asked(1, 6), asked(1, 7)]
    assert packs(records, 1, 100) == [[1], [2], [3], [4], [5], [6], [7]]
    assert packs(records, 2, 100) == [[1, 2], [3, 4], [5], [6, 7]]
    assert packs(records, 9, 100) == [[1, 2, 3, 4, 5], [6, 7]]
    assert packed(records, DataConfig(), EOS) == records


def test_questions_are_packed_as_far_as_answer_length_reaches():
    records = [asked(0, 1), asked(0, 2), asked(0, 3, length=4), asked(0, 4)]  # 4, 4, 6, 4 tokens with the end
    assert packs(records, 9, 8) == [[1, 2], [3], [4]]
    assert packs(records, 9, 13) == [[1, 2], [3, 4]]
    assert packs(records, 9, 14) == [[1, 2, 3], [4]]
    assert packs(records, 9, 14, eos_id=None) == [[1, 2, 3, 4]]  # 3, 3, 5, 3 tokens


def test_every_packed_question_has_its_own_scored_answer():
    (record,) = packed([asked(0, 1), asked(0, 2)], DataConfig(questions_per_example=2), EOS)
    example = make_example(record, CFG, ('ft',), EOS, None)
    assert unpack(example) == ([5, 5], {'ft': ([10, 10, 11, EOS, 20, 20, 21, EOS], [11, EOS, 21, EOS])})
    assert unpack(make_example(record, CFG, ('ft',), None, None))[1] == {'ft': ([10, 10, 11, 20, 20, 21], [11, 21])}


def test_random_start_reaches_every_window_and_no_further():
    rng = np.random.default_rng(0)
    drawn = [make_example(document(9), CFG, ('lm',), EOS, rng) for _ in range(100)]
    assert {example.context[0] for example in drawn} == {10, 11, 12, 13}
    for example in drawn:
        window = [*example.context, *example.targets['lm'].tokens]
        assert window == list(range(window[0], window[0] + 6))
    fixed = DataConfig(context_length=4, target_length=2, min_context=2, random_start=False)
    assert {make_example(document(9), fixed, ('lm',), EOS, rng).context[0] for _ in range(20)} == {10}


def records(*contexts, **fields):
    fields = {'prompt': None, 'answers': ()} | fields
    return [Record(context, group=context, source=f'f:{i}', **fields) for i, context in enumerate(contexts, start=1)]


def tokenised(tokenizer, records, objectives, vocab_size=None, **options):
    cfg = DataConfig(**({'context_length': 20, 'target_length': 3, 'min_context': 2} | options))
    settings = tokenise.template('plain', tokenizer), cfg, objectives, EOS, vocab_size or len(tokenizer)
    return tokenise_records(records, tokenizer, *settings)


def test_short_documents_are_dropped_and_counted(tokenizer):
    lengths = [len(tokenise.encode(tokenizer, text)) for text in ('9 9', '9 9 9')]
    assert lengths == [3, 5]  # the shorter leaves no room for min_context + target_length
    kept, dropped = tokenised(tokenizer, records('9 9', '9 9 9', '9'), ('lm',))
    assert ([r.source for r in kept], dropped) == (['f:2'], 2)
    kept, dropped = tokenised(tokenizer, records('9 9', '9 9 9', '9'), ('ae',))
    assert ([r.source for r in kept], dropped) == (['f:1', 'f:2'], 1)
    with pytest.raises(PicJaxError, match=r'all 2 documents are too short \(the first is f:1\): expected at least 5'):
        tokenised(tokenizer, records('9', '9 9'), ('lm',))
    assert tokenised(tokenizer, [], ('lm',)) == ([], 0)


@pytest.mark.parametrize('prompt', [None, '9'])
def test_an_id_that_the_model_lacks_is_refused_with_its_source(tokenizer, prompt):
    """JAX would make up an embedding of NaN for it. The question has larger ids than the context."""
    asked = records('9 9 9', prompt=prompt, answers=('six',) if prompt else ())
    of_context = max(tokenise.encode(tokenizer, '9 9 9'))
    largest = max(tokenise.encode(tokenizer, 'Question: 9')) if prompt else of_context
    assert prompt is None or largest > of_context
    with pytest.raises(PicJaxError, match=rf'^f:1: token id {largest} is not valid: expected 0 to {largest - 1}; the '):
        tokenised(tokenizer, asked, ('ft',) if prompt else ('ae',), vocab_size=largest)


def test_a_context_is_encoded_once(tokenizer):
    kept, _ = tokenised(tokenizer, records('six cats', 'six cats', prompt='q?', answers=('six',)), ('ft',))
    assert kept[0].context is kept[1].context
    assert len(packed(kept, DataConfig(questions_per_example=2), EOS)) == 1
    assert tokenizer.decode(kept[0].context) == 'six cats'
    assert tokenizer.decode(np.concatenate([kept[0].question, kept[0].answer])) == 'Question: q?\nAnswer: six'


def test_too_long(tokenizer):
    asked = records('nine nine nine', prompt='q?', answers=('six',))
    with pytest.raises(PicJaxError, match=r'^f:1: the context has \d+ tokens, expected 1 to data\.context_length=2 '):
        tokenised(tokenizer, asked, ('ft',), context_length=2)
    (kept,), _ = tokenised(tokenizer, asked, ('ft',))
    length = len(kept.question) + len(kept.answer) + 1
    assert tokenised(tokenizer, asked, ('ft',), answer_length=length)[1] == 0
    message = (
        rf'^f:1: template, prompt and answer have {length} tokens, expected at most data\.answer_length={length - 1}$'
    )
    with pytest.raises(PicJaxError, match=message):
        tokenised(tokenizer, asked, ('ft',), answer_length=length - 1)


def test_objective_without_data(tokenizer):
    with pytest.raises(ConfigError, match=r'objective\.ft has no data: f:1 is a document'):
        tokenised(tokenizer, records('nine nine'), ('ae', 'ft'))
    with pytest.raises(ConfigError, match=r'objective\.lm has no data: f:1 is a question'):
        tokenised(tokenizer, records('nine', prompt='q?', answers=('six',)), ('lm',))
