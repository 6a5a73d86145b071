import hashlib
import re

from pic_jax.data import lexicon, readers
from pic_jax.data.generator import PEOPLE, QUESTIONS, generate


def test_same_seed_same_documents():
    assert generate(5, seed=1) == generate(5, seed=1)
    assert generate(5, seed=1) != generate(5, seed=2)
    assert generate(3, seed=1) == generate(5, seed=1)[: 3 * QUESTIONS]
    assert readers.read('generated', size=5, seed=1, window=0) == generate(5, seed=1)


def test_documents_do_not_depend_on_the_platform():
    text = '\n'.join(f'{r.context}|{r.prompt}|{r.answers}' for r in generate(20, seed=7))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == '3d58e2eeeb5d7c8922a1f11e793681e283d9304439f6a6f223acd924f1e98907'
    )


def test_three_questions_share_a_document():
    records = generate(30, seed=0)
    assert len(records) == 30 * QUESTIONS
    assert len({r.context for r in records}) == len({r.group for r in records}) == 30
    for first in range(0, len(records), QUESTIONS):
        assert len({(r.context, r.group) for r in records[first : first + QUESTIONS]}) == 1
        assert len({r.prompt for r in records[first : first + QUESTIONS]}) == QUESTIONS
    assert all(120 <= len(r.context.split()) <= 180 for r in records)


def test_fewer_questions_are_the_first_of_more():
    few, many = generate(4, seed=3, questions=3), generate(4, seed=3, questions=12)
    assert [many[12 * document + q] for document in range(4) for q in range(3)] == few


def test_every_question_is_answered_once_among_distractors():
    for record in generate(100, seed=0):
        (answer,) = record.answers
        told = _told(record.context)
        kinds = [kind for kind, attribute in enumerate(lexicon.ATTRIBUTES) if _is_asked(attribute, record.prompt)]
        (kind,) = kinds
        facts = {name: value for fact_kind, name, value in told if fact_kind == kind}
        (person,) = [name for name in facts if name in record.prompt]
        assert facts[person] == answer
        assert len(facts) == len(set(facts.values())) == PEOPLE >= 4


def _is_asked(attribute, prompt):
    return any(prompt.startswith(a) and prompt.endswith(b) for a, b in (q.split('{name}') for q in attribute.asked))


def _told(context):
    """(attribute number, name, value) of every sentence that tells a fact, read back from the text."""
    found = []
    for sentence in re.split(r'(?<=\.) ', context):
        for kind, attribute in enumerate(lexicon.ATTRIBUTES):
            for told in attribute.told:
                pattern = (
                    re.escape(told).replace(r'\{name\}', r'(?P<name>\w+)').replace(r'\{value\}', r'(?P<value>\w+)')
                )
                match = re.fullmatch(pattern, sentence)
                if match and match['value'] in attribute.values:
                    found.append((kind, match['name'], match['value']))
    return found
