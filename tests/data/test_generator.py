"""Generated documents, read back from their text; and what can be answered without binding values to people."""

import collections
import functools
import hashlib
import math
import re

import pytest

from pic_jax.config import CorpusConfig
from pic_jax.data import lexicon
from pic_jax.data.generator import EXAMPLES, KINDS, SPLITS, document, generate, split_of
from pic_jax.errors import ConfigError

CONFIG = CorpusConfig()
LISTS = CorpusConfig(word_lists=1.0)


def test_a_document_depends_on_split_seed_and_number_only():
    ten = generate(CONFIG, 'train', 10, seed=1)
    assert generate(CONFIG, 'train', 10, seed=1) == ten
    assert generate(CONFIG, 'train', 4, seed=1) == ten[: 4 * CONFIG.questions]
    assert document(CONFIG, 'train', 1, 7) == ten[7 * CONFIG.questions : 8 * CONFIG.questions]
    first = document(CONFIG, 'train', 1, 0)[0].context
    others = [('train', 2, 0), ('train', 1, 1), ('test', 1, 0), ('validation', 1, 0)]
    assert first not in [document(CONFIG, *other)[0].context for other in others]


def test_documents_do_not_depend_on_the_platform():
    mixed = CorpusConfig(word_lists=0.3)
    text = '\n'.join(f'{r.context}|{r.prompt}|{r.answers}|{r.place}' for r in generate(mixed, 'test', 30, seed=7))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == '82cbf5674299d66fe1d6ef7a3706a0e90438b72b9e8573484b05c65624f2b627'


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="split='dev' is not valid: expected one of train, validation, test"):
        generate(CONFIG, 'dev', 1, seed=0)


def test_no_value_occurs_in_other_text():
    """Else a value would stand in documents that do not tell it, or belong to two attributes."""
    values = [value for attribute in lexicon.ATTRIBUTES for value in attribute.values]
    assert len(values) == len(set(values)) >= 500
    templates = [text for a in lexicon.ATTRIBUTES for text in (a.name, *a.told, *a.told_two, *a.asked)]
    slots = [word for words in lexicon.SLOTS.values() for word in words]
    texts = [*templates, *slots, *lexicon.OPENINGS, *lexicon.LEDGER_OPENINGS, *lexicon.FILLERS]
    names = set(lexicon.GIVEN) | set(lexicon.SURNAMES)
    words = {word for text in texts for word in re.findall(r'\w+', text)}
    assert not set(values) & (words | names)
    assert not names & words
    assert not set(lexicon.GIVEN) & set(lexicon.SURNAMES)


@pytest.fixture(scope='module')
def told():
    """{split: facts (attribute name, person, value) of its first 300 documents}."""
    contexts = {split: [document(CONFIG, split, 0, i)[0].context for i in range(300)] for split in SPLITS}
    return {split: {fact for context in texts for fact in facts_in(context)} for split, texts in contexts.items()}


def test_splits_share_no_person_and_so_no_fact(told):
    people = {split: {person for _, person, _ in facts} for split, facts in told.items()}
    assert min(len(found) for found in people.values()) > 300
    for split, found in people.items():
        assert {split_of(person) for person in found} == {split}
    assert not people['train'] & (people['validation'] | people['test'])
    assert not people['validation'] & people['test']


def test_there_are_thousands_of_people_and_every_value_is_told(told):
    everyone = [f'{given} {surname}' for given in lexicon.GIVEN for surname in lexicon.SURNAMES]
    counts = collections.Counter(map(split_of, everyone))
    assert counts['train'] > 8000
    assert min(counts['validation'], counts['test']) > 1000
    values = {value for facts in told.values() for _, _, value in facts}
    assert len(values) >= 500


@pytest.mark.parametrize('facts', [5, 12, 40])
def test_a_question_has_one_right_fact_among_five_or_more(facts):
    for record in generate(CorpusConfig(facts_per_context=facts, questions=3), 'train', 100, seed=0):
        found = facts_in(record.context)
        assert len(found) == len(set(found)) == facts
        asked, person = question_of(record.prompt)
        values = {who: value for attribute, who, value in found if attribute == asked}
        assert (values[person],) == record.answers
        assert len(values) == len(set(values.values())) == sum(attribute == asked for attribute, *_ in found) >= 5


def test_facts_are_as_many_as_asked_for_at_the_most():
    """Where people or values are fewer, documents tell what there is; looking for more people would not end."""
    values = {attribute.name: len(attribute.values) for attribute in lexicon.ATTRIBUTES}
    most = sum(values.values())
    found = facts_in(document(CorpusConfig(facts_per_context=30 * most), 'validation', 0, 1)[0].context)
    assert collections.Counter(name for name, *_ in found) == values
    documents = [document(CorpusConfig(facts_per_context=8), 'train', 0, i)[0].context for i in range(60)]
    assert {len(facts_in(context)) for context in documents} == {min(values.values()), 8} == {7, 8}


def test_place_is_where_the_sentence_with_the_answer_begins():
    for record in generate(CONFIG, 'train', 100, seed=3):
        start = round(record.place * len(record.context))
        assert start > 0
        assert record.context[start - 2] in '.:'  # the end of the sentence before
        sentence = re.split(r'(?<=[.:]) ', record.context[start:])[0]
        asked, person = question_of(record.prompt)
        assert (asked, person, record.answers[0]) in facts_in(sentence)


@pytest.mark.parametrize('words', [1, 120, 300])
def test_words_are_filled_up_as_far_as_a_sentence_fits(words):
    longest = max(len(filler.split()) for filler in lexicon.FILLERS)
    for record in generate(CorpusConfig(facts_per_context=6, words=words, questions=1), 'train', 60, seed=0):
        found = len(record.context.split())
        told = sum(len(sentence.split()) for sentence in sentences(record.context) if facts_in(sentence))
        assert words - longest <= found <= max(words, told + 20)  # 20: an opening


@pytest.mark.parametrize('config', [CONFIG, LISTS])
def test_questions_of_a_document_share_context_and_group_and_differ(config):
    records = generate(config, 'train', 40, seed=0)
    assert len(records) == 40 * config.questions
    assert len({r.context for r in records}) == len({r.group for r in records}) == 40
    assert len({(r.context, r.group) for r in records}) == 40
    assert len({(r.context, r.prompt) for r in records}) == len(records)
    assert len(document(CorpusConfig(questions=100), 'train', 0, 1)) == CONFIG.facts_per_context


def test_word_lists_are_the_share_that_is_asked_for():
    def lists(share):
        records = generate(CorpusConfig(word_lists=share, questions=1), 'train', 300, seed=0)
        assert {(record.task, record.place is None) for record in records} <= {('qa', False), ('icl', True)}
        return sum(record.task == 'icl' for record in records)

    assert lists(0.0) == 0
    assert 60 <= lists(0.3) <= 120
    assert lists(1.0) == 300


def test_a_word_list_asks_for_a_new_word_of_a_kind_that_has_examples():
    told = patterns(lexicon.ICL_TOLD, word=r'\w+', label=r'\w+')
    asked = patterns(lexicon.ICL_ASKED, word=r'\w+')
    kind_of = {word: kind for kind, words in lexicon.CATEGORIES.items() for word in words}
    for record in generate(LISTS, 'train', 100, seed=0):
        found = [read(told, sentence, 'word', 'label') for sentence in sentences(record.context)]
        examples = dict(pair for pair in found if pair)
        assert len(examples) == KINDS * EXAMPLES
        (word,) = read(asked, record.prompt, 'word')
        assert word not in examples
        labels = {label for other, label in examples.items() if kind_of[other] == kind_of[word]}
        assert labels == set(record.answers)
        counts = collections.Counter(examples.values())
        assert list(counts.values()) == [EXAMPLES] * KINDS


# What can be answered without the binding of values to people. Six people share an attribute: chance is 1 in 6.


@pytest.fixture(scope='module')
def questions():
    """1,600 test questions as (record, values of the asked attribute in the order of the context)."""
    records = generate(CONFIG, 'test', 400, seed=0)
    return [(record, candidates(record)) for record in records]


def candidates(record) -> list[str]:
    asked, _ = question_of(record.prompt)
    values = {a.name: set(a.values) for a in lexicon.ATTRIBUTES}[asked]
    return [word for word in re.findall(r'\w+', record.context) if word in values]


def exact_match(answer, questions) -> float:
    return sum(answer(record, found) == record.answers[0] for record, found in questions) / len(questions)


def test_word_counts_do_not_answer(questions):
    """Naive Bayes of values given the words of the question, among the values that the context has."""
    seen, together = collections.Counter(), collections.defaultdict(collections.Counter)
    for record in generate(CONFIG, 'train', 2000, seed=0):
        seen[record.answers[0]] += 1
        together[record.answers[0]].update(re.findall(r'\w+', record.prompt))

    def answer(record, found):
        words = re.findall(r'\w+', record.prompt)
        counts = collections.Counter(re.findall(r'\w+', record.context))

        def log_odds(value):
            own, total = together[value], together[value].total() + 1000
            likely = sum(math.log((own[word] + 0.1) / total) for word in words)
            return likely + math.log(seen[value] + 1) + math.log(counts[value])

        return max(sorted(set(found)), key=log_odds)

    assert exact_match(answer, questions) <= 0.20


def test_the_place_in_the_document_does_not_answer(questions):
    assert exact_match(lambda record, found: found[-1], questions) <= 0.20
    assert exact_match(lambda record, found: found[0], questions) <= 0.20


def test_the_question_alone_does_not_answer(questions):
    often = collections.defaultdict(collections.Counter)
    for record in generate(CONFIG, 'train', 2000, seed=0):
        often[question_of(record.prompt)[0]][record.answers[0]] += 1

    def answer(record, found):
        return often[question_of(record.prompt)[0]].most_common(1)[0][0]

    assert exact_match(answer, questions) <= 0.15


# Reading documents back.

PERSON = r'\w+ \w+'


def sentences(context: str) -> list[str]:
    return re.split(r'(?<=[.:]) ', context)


def patterns(templates, **slots) -> list[re.Pattern]:
    """Regular expressions that match what the templates make."""
    found = []
    for template in templates:
        pattern = re.escape(template)
        for slot, words in slots.items():
            pattern = pattern.replace(rf'\{{{slot}\}}', f'(?P<{slot}>{words})')
        found.append(re.compile(pattern))
    return found


def read(patterns: list[re.Pattern], text: str, *slots: str) -> tuple[str, ...] | None:
    matches = [match for match in (pattern.fullmatch(text) for pattern in patterns) if match]
    assert len(matches) <= 1, text
    return tuple(matches[0][slot] for slot in slots) if matches else None


@functools.cache
def fact_patterns():
    return {
        attribute: (
            patterns(attribute.told, name=PERSON, value=r'\w+'),
            patterns(attribute.told_two, name=PERSON, value=r'\w+', name2=PERSON, value2=r'\w+'),
            patterns(attribute.asked, name=PERSON),
        )
        for attribute in lexicon.ATTRIBUTES
    }


def facts_in(context: str) -> list[tuple[str, str, str]]:
    """(attribute name, person, value) of everything that a context tells."""
    names = '|'.join(attribute.name for attribute in lexicon.ATTRIBUTES)
    entry = re.compile(rf'({PERSON})((?:, (?:{names}) \w+)+)\.')
    found = []
    for sentence in sentences(context):
        if match := entry.fullmatch(sentence):
            found += [(name, match[1], value) for name, value in re.findall(rf', ({names}) (\w+)', match[2])]
            continue
        for attribute, (one, two, _) in fact_patterns().items():
            if fact := read(one, sentence, 'name', 'value'):
                found.append((attribute.name, *fact))
            elif pair := read(two, sentence, 'name', 'value', 'name2', 'value2'):
                found += [(attribute.name, *pair[:2]), (attribute.name, *pair[2:])]
    values = {attribute.name: set(attribute.values) for attribute in lexicon.ATTRIBUTES}
    assert all(value in values[name] for name, _, value in found)
    return found


def question_of(prompt: str) -> tuple[str, str]:
    """(attribute name, person) that a question asks for."""
    asked = [(attribute.name, read(ask, prompt, 'name')) for attribute, (_, _, ask) in fact_patterns().items()]
    ((attribute, (person,)),) = [(name, found) for name, found in asked if found]
    return attribute, person
