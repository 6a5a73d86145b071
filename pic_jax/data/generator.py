"""Generated documents whose facts can be asked for, so that nothing must be downloaded.

Stories and ledgers tell facts (person, attribute, value) spread over the whole text; word lists show by example which
label a kind of word has. Document i is a function of (split, seed, i) and the corpus settings alone. In every document
several people share each attribute, so an answer must be bound to its person: the others' values are distractors.
A person belongs to one split: train, validation and test share no fact.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from pic_jax.config import CorpusConfig
from pic_jax.data import lexicon
from pic_jax.data.lexicon import Attribute
from pic_jax.data.records import Record
from pic_jax.errors import ConfigError

SPLITS = ('train', 'validation', 'test')
HOLDERS = 6  # people that share an attribute, where facts_per_context allows
PAIRS = 0.3  # share of sentences that tell two facts, where two are left to tell
KINDS, EXAMPLES = 3, 5  # of a word list: kinds of word, and examples of each


class Fact(NamedTuple):
    """`person` has `value` as `attribute`."""

    attribute: Attribute
    person: str
    value: str


Told = tuple[str, list[Fact]]  # a sentence and the facts in it


def generate(config: CorpusConfig, split: str, size: int, seed: int) -> list[Record]:
    """Makes the first `size` documents of a split.

    Args:
      config: what a document is like. split: train, validation or test. seed: of everything in the documents.

    Returns:
      Up to `config.questions` records per document, in order; they share context and group. Every answer occurs in
      its context, and `place` says where (None for word lists, whose label occurs several times).

    Raises:
      ConfigError: there is no such split.
    """
    return [record for number in range(size) for record in document(config, split, seed, number)]


def split_of(person: str) -> str:
    """The only split in which a person occurs: train for 8 in 10."""
    part = hashlib.sha256(person.encode()).digest()[0] % 10
    return {8: 'validation', 9: 'test'}.get(part, 'train')


def document(config: CorpusConfig, split: str, seed: int, number: int) -> list[Record]:
    """The records of one document; see `generate`."""
    if split not in SPLITS:
        raise ConfigError(f'split={split!r} is not valid: expected one of {", ".join(SPLITS)}')
    rng = random.Random(f'{split}/{seed}/{number}')  # a string seed is hashed the same way on every platform
    name = f'generated {split} document {number}'
    if rng.random() < config.word_lists:
        return _word_list(config, rng, name)
    facts = _facts(config, split, rng)
    is_ledger = rng.random() < config.ledgers
    opening = rng.choice(lexicon.LEDGER_OPENINGS if is_ledger else lexicon.OPENINGS)
    told = _lines(facts) if is_ledger else _sentences(facts, rng)
    sentences = _filled([(opening, []), *told], config.words, rng)
    context = ' '.join(sentence for sentence, _ in sentences)
    place: dict[Fact, float] = {}
    start = 0
    for sentence, told_facts in sentences:
        place |= dict.fromkeys(told_facts, start / len(context))
        start += len(sentence) + 1
    return [
        Record(context, question, (fact.value,), group=name, source=name, place=place[fact])
        for fact in rng.sample(facts, len(facts))[: config.questions]
        for question in [rng.choice(fact.attribute.asked).format(name=fact.person)]
    ]


def _facts(config: CorpusConfig, split: str, rng: random.Random) -> list[Fact]:
    """`facts_per_context` facts at the most; an attribute's people are distinct, and so are its values."""
    kinds = min(max(1, config.facts_per_context // HOLDERS), len(lexicon.ATTRIBUTES))
    counts = [len(range(kind, config.facts_per_context, kinds)) for kind in range(kinds)]
    most = max(len(attribute.values) for attribute in lexicon.ATTRIBUTES)  # people of a split are more than that
    people = _people(min(max(counts), most), split, rng)
    facts = []
    for attribute, count in zip(rng.sample(lexicon.ATTRIBUTES, kinds), counts, strict=True):
        count = min(count, len(attribute.values))
        pairs = zip(rng.sample(people, count), rng.sample(attribute.values, count), strict=True)
        facts += [Fact(attribute, person, value) for person, value in pairs]
    return facts


def _people(count: int, split: str, rng: random.Random) -> list[str]:
    """Distinct people of a split."""
    people: list[str] = []
    while len(people) < count:
        person = f'{rng.choice(lexicon.GIVEN)} {rng.choice(lexicon.SURNAMES)}'
        if person not in people and split_of(person) == split:
            people.append(person)
    return people


def _sentences(facts: list[Fact], rng: random.Random) -> Iterator[Told]:
    """The facts in random order; some sentences tell one attribute of two people."""
    waiting = rng.sample(facts, len(facts))
    while waiting:
        fact = waiting.pop()
        partner = next((other for other in waiting if other.attribute is fact.attribute), None)
        if partner and rng.random() < PAIRS:
            waiting.remove(partner)
            template = rng.choice(fact.attribute.told_two)
            both = dict(name=fact.person, value=fact.value, name2=partner.person, value2=partner.value)
            yield template.format(**both), [fact, partner]
        else:
            yield rng.choice(fact.attribute.told).format(name=fact.person, value=fact.value), [fact]


def _lines(facts: list[Fact]) -> Iterator[Told]:
    """One entry per person: 'Ann Bell, trade baker, home town Fernford.'"""
    for person in dict.fromkeys(fact.person for fact in facts):
        own = [fact for fact in facts if fact.person == person]
        yield f'{person}, {", ".join(f"{fact.attribute.name} {fact.value}" for fact in own)}.', own


def _filled(told: list[Told], words: int, rng: random.Random) -> list[Told]:
    """The sentences in their order, with others that tell no fact in between, up to `words` words."""
    room = words - sum(len(sentence.split()) for sentence, _ in told)
    fillers: list[Told] = []
    while True:
        filler = rng.choice(lexicon.FILLERS).format(**{slot: rng.choice(w) for slot, w in lexicon.SLOTS.items()})
        room -= len(filler.split())
        if room < 0:
            break
        fillers.append((filler, []))
    count = len(told) + len(fillers)
    is_filler = set(rng.sample(range(1, count), len(fillers)))  # the opening stays first
    told_left, fillers_left = iter(told), iter(fillers)
    return [next(fillers_left if place in is_filler else told_left) for place in range(count)]


def _word_list(config: CorpusConfig, rng: random.Random, name: str) -> list[Record]:
    """Words with their labels, one label for each kind of word; new words of the same kinds are asked for."""
    labels = rng.sample(lexicon.LABELS, KINDS)
    told: list[Told] = []
    asked: list[tuple[str, str]] = []
    for label, kind in zip(labels, rng.sample(sorted(lexicon.CATEGORIES), KINDS), strict=True):
        words = rng.sample(lexicon.CATEGORIES[kind], len(lexicon.CATEGORIES[kind]))
        told += [(rng.choice(lexicon.ICL_TOLD).format(word=word, label=label), []) for word in words[:EXAMPLES]]
        asked += [(word, label) for word in words[EXAMPLES:]]
    rng.shuffle(told)
    sentences = _filled([(rng.choice(lexicon.ICL_OPENINGS), []), *told], config.words, rng)
    context = ' '.join(sentence for sentence, _ in sentences)
    return [
        Record(context, rng.choice(lexicon.ICL_ASKED).format(word=word), (label,), name, name, task='icl')
        for word, label in rng.sample(asked, len(asked))[: config.questions]
    ]
