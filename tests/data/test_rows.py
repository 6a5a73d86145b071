"""Rows for pretraining: with a tokenizer of characters they can be written down."""

import dataclasses
import re

import numpy as np
import pytest

from pic_jax.config import CorpusConfig, RowsConfig
from pic_jax.data import generator, lexicon
from pic_jax.data.generator import split_of
from pic_jax.data.records import Record
from pic_jax.data.rows import REPEAT, RowBatches, copy_row, document_row, mixture_weights, repeat_row, told_in
from pic_jax.data.tokenise import Template, encode, encode_question, load_tokenizer, template
from pic_jax.run import TINY_BASE

SHORT = Template(before='', between='?', after='=', lead=' ')


class Characters:
    """One token per character; ^ and $ begin and end."""

    bos_token_id, eos_token_id = ord('^'), ord('$')

    def __call__(self, text, **_):
        return {'input_ids': [ord(character) for character in text]}


def drawn(row):
    """The tokens as text, padding as _, and which of them are targets of which loss."""
    text = ''.join(map(chr, row.tokens)).replace('\0', '_')
    return text, {name: ''.join('.#'[int(target)] for target in mask) for name, mask in row.targets.items()}


def records(*pairs, context='abc'):
    return [Record(context, prompt, (answer, 'other'), 'group', 'source') for prompt, answer in pairs]


def test_document_row_literally():
    rows = RowsConfig(documents=1, row_length=20)
    row = document_row(records(('x', 'yes'), ('z', 'no')), Characters(), SHORT, rows)
    assert drawn(row) == (
        '^abc?x= yes$?z= no$_',
        {
            'text': '.######.....###.....',
            'answer': '.......#####...####.',
        },
    )
    assert row.tokens.dtype == np.int32


def test_what_does_not_fit_a_document_row_is_cut():
    rows = RowsConfig(documents=1, row_length=9)
    row = document_row(records(('x', 'yes'), ('z', 'no')), Characters(), SHORT, rows)
    assert drawn(row) == ('^abc?x= y', {'text': '.######..', 'answer': '.......##'})


@pytest.mark.parametrize(
    ('context', 'kept', 'padding'),
    [('abcdef', 'abcd', 0), ('abcd', 'abcd', 0), ('ab', 'ab', 4)],
)
def test_repeat_row_literally(context, kept, padding):
    row = repeat_row(context, Characters(), RowsConfig(repeats=1, row_length=10 + len(REPEAT)))
    marker, n = '.' * len(REPEAT), len(kept)
    assert drawn(row) == (
        f'^{kept}{REPEAT}{kept}$' + '_' * padding,
        {
            'text': '.' + '#' * n + marker + '.' * (n + 1 + padding),
            'repeat': '.' * (n + 1) + marker + '#' * (n + 1) + '.' * padding,
        },
    )


def test_copy_rows_repeat_with_the_period_where_targets_start():
    rows = RowsConfig(copies=1, copy_length=16, copy_period=8)
    drawn_rows = [copy_row(rows, 30, np.random.default_rng(seed)) for seed in range(100)]
    periods = [int(np.argmax(row.targets['copy'])) for row in drawn_rows]
    assert set(periods) == set(range(2, 9))
    for row, period in zip(drawn_rows, periods, strict=True):
        assert row.targets['copy'].tolist() == [False] * period + [True] * (16 - period)
        assert np.array_equal(row.tokens[period:], row.tokens[:-period])
        assert row.tokens.dtype == np.int32
    ids = np.concatenate([row.tokens for row in drawn_rows])
    assert set(ids) == set(range(2, 30))  # not <s> and </s>


class Least:
    """Draws the lowest number, or ones for several."""

    def uniform(self, low, high, size=None):
        return np.ones(size) if size else low

    def random(self):
        return 0.0


class LeastTogether(Least):
    def random(self):
        return 1.0


def test_mixture_weights_literally():
    weights = mixture_weights(np.array([3.0, 4.0, 5.0, 12.0, 2.0]), 2, [], Least())
    np.testing.assert_allclose(
        weights, [[3 / 5, 4 / 5, 0, 0, 0], [0, 0, 5 / 13, 12 / 13, 0], [0, 0, 0, 0, 1]], rtol=1e-6
    )
    assert weights.dtype == np.float32
    rng = np.random.default_rng(0)
    one, other = (mixture_weights(np.array([3.0, 4.0]), 2, [], rng) for _ in range(2))
    assert not np.array_equal(one, other)


def test_what_tells_a_fact_shares_the_slot_of_its_end_and_the_rest_fades():
    """0.05 is the least that the rest keeps."""
    weights = mixture_weights(np.array([3.0, 20.0, 60.0, 4.0]), 2, [np.array([0, 3])], LeastTogether())
    np.testing.assert_allclose(weights[0], np.array([3.0 * 0.05, 1, 0, 0]) / np.hypot(0.15, 1), rtol=1e-6)
    np.testing.assert_allclose(weights[1], np.array([3, 0, 3, 4]) / np.sqrt(34), rtol=1e-6)


@pytest.mark.parametrize(('rng', 'slots'), [(LeastTogether(), [1, 1, 2]), (Least(), [1, 0, 2])])
def test_facts_share_slots_or_each_take_the_nearest_free_one(rng, slots):
    weights = mixture_weights(np.ones(6), 2, [np.array([2]), np.array([3]), np.array([4])], rng)
    assert np.argmax(weights, axis=0)[2:5].tolist() == slots


def test_a_fact_is_told_by_the_tokens_of_its_question_and_answer_up_to_the_answer():
    context = '-a-q-zab..z'
    record = Record(context, 'ab', ('z',), 'group', 'source', place=2 / len(context))
    ids = np.array([ord(character) for character in context])
    lists, cut = dataclasses.replace(record, place=None), ids[:5]
    assert [own.tolist() for own in told_in([record, lists], ids, Characters(), SHORT)] == [[5]]
    earlier = dataclasses.replace(record, place=0.0)
    assert [own.tolist() for own in told_in([earlier], ids, Characters(), SHORT)] == [[1, 5]]
    assert told_in([earlier], cut, Characters(), SHORT) == []


def test_the_first_word_of_a_sentence_belongs_to_what_it_tells():
    """With a real tokenizer, whose tokens take the space before them."""
    tokenizer = load_tokenizer(TINY_BASE)
    plain, seen = template('plain', tokenizer), 0
    for number in range(20):
        facts = generator.document(CorpusConfig(facts_per_context=5, words=60, questions=5), 'train', 0, number)
        context = encode(tokenizer, facts[0].context)
        for record, own in zip(facts, told_in(facts, context, tokenizer, plain), strict=True):
            character = round(record.place * len(record.context))
            sentence = record.context[character:]
            question, _ = encode_question(tokenizer, plain, record.prompt, record.answers[0])
            first = encode(tokenizer, (' ' if character and record.context[character - 1] == ' ' else '') + sentence)[0]
            if first in question:
                assert tokenizer.decode(context[own]).strip().startswith(tokenizer.decode([first]).strip())
                seen += 1
    assert seen > 20


ROWS = RowsConfig(
    documents=3, repeats=2, notes=2, mixtures=2, copies=2, row_length=320, text_length=280,
    mixture_slots=40, mixture_ratios=(2, 4, 8), copy_length=16, copy_period=8,
)  # fmt: skip
CORPUS = CorpusConfig(facts_per_context=5, words=1, questions=2)
MEMORY = ('context', 'weights', 'slots', 'stride')


@pytest.fixture
def make_batches(tokenizer):
    frequency = np.arange(len(tokenizer))

    def make(split='train', seed=0, rows=ROWS):
        return RowBatches(rows, CORPUS, tokenizer, template('plain', tokenizer), frequency, split, seed)

    return make


def flat(batch):
    return {f'{kind}/{name}': array for kind, rows in batch.items() for name, array in rows.items()}


def test_batches_depend_on_seed_and_step_only(make_batches):
    first, second = make_batches(), make_batches()
    forward = [flat(first[step]) for step in range(3)]
    backward = [flat(second[step]) for step in reversed(range(3))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    rows = lambda batch, name: {row.tobytes() for row in batch[name]}
    for other in (forward[1], flat(make_batches(seed=1)[0]), flat(make_batches('validation')[0])):
        for name in ('document/tokens', 'mixture/tokens', 'copy/tokens'):
            assert not rows(forward[0], name) & rows(other, name), name


def test_random_rows_depend_on_the_seed_too(make_batches):
    only = dataclasses.replace(ROWS, documents=0, repeats=0, notes=0, mixtures=0)
    one, other = (make_batches(seed=seed, rows=only)[0]['copy']['tokens'] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_a_step_has_the_rows_and_losses_of_its_settings(make_batches):
    batch = make_batches()[0]
    assert {kind: set(rows) for kind, rows in batch.items()} == {
        'document': {'tokens', 'text', 'answer', 'repeat'},
        'mixture': {'tokens', 'mixture_answer', 'mixture_text', 'context', 'weights', 'slots', 'stride'},
        'copy': {'tokens', 'copy'},
    }
    shapes = {kind: rows['tokens'].shape for kind, rows in batch.items()}
    assert shapes == {'document': (5, 320), 'mixture': (4, 280), 'copy': (2, 16)}
    document, mixture = batch['document'], batch['mixture']
    assert document['answer'].any(1).tolist() == [True] * 3 + [False] * 2
    assert document['repeat'].any(1).tolist() == [False] * 3 + [True] * 2
    assert mixture['mixture_answer'].any(1).tolist() == [True, True, False, False]
    assert mixture['mixture_text'].any(1).tolist() == [False, False, True, True]


def test_a_token_is_a_target_of_one_loss_at_the_most(make_batches):
    for rows in make_batches()[0].values():
        masks = [array for array in rows.values() if array.dtype == bool]
        assert np.max(np.sum(masks, axis=0)) == 1


def test_mixtures_cover_each_token_once_with_weights_of_length_one(make_batches):
    ratios, strides = set(), set()
    for step in range(8):
        mixture = make_batches()[step]['mixture']
        for context, weights, k, stride in list(zip(*(mixture[x] for x in MEMORY), strict=True))[ROWS.notes :]:
            np.testing.assert_allclose(np.linalg.norm(weights[:k], axis=1), 1, rtol=1e-5)
            assert not weights[k:].any()
            n, ratio = np.count_nonzero(weights.any(0)), np.count_nonzero(weights[0])
            ratios.add(ratio)
            assert k == -(-n // ratio) <= ROWS.mixture_slots
            assert np.array_equal(weights[:k, :n] > 0, np.arange(n)[None] // ratio == np.arange(k)[:, None])
            assert not context[n:].any()
            assert stride in (1, ratio)
            strides.add(stride > 1)
    assert ratios == set(ROWS.mixture_ratios)
    assert strides == {False, True}


def test_a_mixture_of_a_text_is_answered_with_the_text(make_batches, tokenizer):
    mixture = make_batches()[0]['mixture']
    for row in (2, 3):
        n = np.count_nonzero(mixture['weights'][row].any(0))
        target = mixture['tokens'][row][mixture['mixture_text'][row]]
        assert target.tolist() == [*mixture['context'][row, :n], tokenizer.eos_token_id]


def test_a_note_holds_what_the_question_and_the_answer_name(make_batches, tokenizer):
    """The slot with the most of a value holds the person too."""
    mixture = make_batches(rows=dataclasses.replace(ROWS, mixture_slots=200))[0]['mixture']
    for row in range(ROWS.notes):
        answers = tokenizer.decode(mixture['tokens'][row][mixture['mixture_answer'][row]])
        assert re.fullmatch(r'( \w+</s>){2}', answers)
        question = tokenizer.decode(mixture['tokens'][row])
        person = re.search('|'.join(f'{given} \\w+' for given in lexicon.GIVEN), question)[0]
        context, weights = mixture['context'][row], mixture['weights'][row]
        value = encode(tokenizer, answers.split('</s>')[0])
        slot = weights[np.argmax(weights[:, np.isin(context, value)].sum(1))]
        for name in encode(tokenizer, f' {person}'):
            assert slot[context == name].max() > 0.1


def test_rarer_tokens_weigh_more(make_batches):
    """`frequency` grows with the id, and a factor of 0.5 to 1 hides differences of less than two."""
    for mixture in (make_batches()[step]['mixture'] for step in range(4)):
        for context, weights in zip(mixture['context'][ROWS.notes :], mixture['weights'][ROWS.notes :], strict=True):
            surprisal = -np.log((context + 1) / np.arange(1, 501).sum())
            for slot in weights[weights.any(1)]:
                own = np.flatnonzero(slot)
                i, j = own[np.argmax(surprisal[own])], own[np.argmin(surprisal[own])]
                assert surprisal[i] < 2 * surprisal[j] or slot[i] > slot[j]


def test_rows_of_a_split_tell_of_its_own_people(make_batches, tokenizer):
    """So train and validation share no document."""
    names = re.compile(rf'\b((?:{"|".join(lexicon.GIVEN)}) (?:{"|".join(lexicon.SURNAMES)}))\b')
    for split in ('train', 'validation'):
        batch = make_batches(split)[0]
        rows = [*batch['document']['tokens'], *batch['mixture']['context'], *batch['mixture']['tokens'][: ROWS.notes]]
        people = {person for row in rows for person in names.findall(tokenizer.decode(row))}
        assert len(people) > 20
        assert {split_of(person) for person in people} == {split}
