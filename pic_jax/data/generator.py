"""Generated documents: small-town notebooks whose facts can be asked for, so that nothing must be downloaded.

Document i is a function of (seed, i) alone. Several people share the same kinds of facts in every
document, so an answer must be bound to its person: the others' values are distractors.
"""

import random

from pic_jax.data import lexicon
from pic_jax.data.records import Record

PEOPLE = 4
ATTRIBUTES = 3
FILLERS = 2
QUESTIONS = 3


def generate(size: int, seed: int, questions: int = QUESTIONS) -> list[Record]:
    """Makes `size` documents of 120 to 180 words, each with questions about different facts.

    Args:
      size: number of documents.
      seed: with the number of a document, decides everything in it.
      questions: per document, at most PEOPLE * ATTRIBUTES; fewer are the first of more.

    Returns:
      `questions` records per document, in order; they share context and group. Every answer occurs in the context.
    """
    return [record for number in range(size) for record in _document(number, seed, questions)]


def _document(number: int, seed: int, questions: int) -> list[Record]:
    rng = random.Random(f'{seed}/{number}')  # a string seed is hashed the same way on every platform
    names = _names(rng)
    facts = []
    for attribute in rng.sample(lexicon.ATTRIBUTES, ATTRIBUTES):
        values = rng.sample(attribute.values, PEOPLE)
        facts += [(attribute, name, value) for name, value in zip(names, values, strict=True)]
    told = [rng.choice(attribute.told).format(name=name, value=value) for attribute, name, value in facts]
    sentences = told + rng.sample(lexicon.FILLERS, FILLERS)
    rng.shuffle(sentences)
    context = ' '.join([rng.choice(lexicon.OPENINGS), *sentences])
    name = f'generated document {number}'
    return [
        Record(context, rng.choice(attribute.asked).format(name=person), (value,), group=name, source=name)
        for attribute, person, value in rng.sample(facts, len(facts))[:questions]
    ]


def _names(rng: random.Random) -> list[str]:
    """Distinct names; no two share a beginning."""
    return [start + rng.choice(lexicon.NAME_END) for start in rng.sample(lexicon.NAME_START, PEOPLE)]
