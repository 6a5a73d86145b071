"""Exact match and F1 under the official SQuAD v1.1 and MRQA rule: a golden set, worked out by hand.

The rule: lower case; the 32 ASCII punctuation marks deleted; a, an and the dropped where they stand between word
boundaries; white space collapsed. EM compares what is left, F1 its words with multiplicity; the best gold counts.
"""

import string

import pytest

from pic_jax.evaluation import metrics

# prediction, golds, F1, exact match
GOLDEN = {
    'plain': [
        ('Paris', ['Paris'], 1, 1),
        ('London', ['Paris'], 0, 0),
        ('in Paris', ['Paris'], 2 / 3, 0),
        ('words reordered', ['reordered words'], 1, 0),
        ('one two three four', ['three four five'], 4 / 7, 0),
        ('yes', ['Yes.'], 1, 1),
        ('no', ['yes'], 0, 0),
        ('No, it does not', ['no'], 2 / 5, 0),
    ],
    'case': [
        ('paris', ['PARIS'], 1, 1),
        ('McDONALD', ['Mcdonald'], 1, 1),
        ('ÉCOLE', ['école'], 1, 1),
        ('STRASSE', ['Straße'], 0, 0),  # lower(), not casefold()
        ('İ', ['i\u0307'], 1, 1),  # lower() of a dotted capital I is two code points
        ('ΟΔΟΣ', ['οδος'], 1, 1),  # lower() writes a sigma at the end of a word in its final form
        ('ⅣV', ['ⅳv'], 1, 1),
    ],
    'articles': [
        ('the Eiffel Tower', ['Eiffel Tower'], 1, 1),
        ('Eiffel Tower!', ['An Eiffel, Tower.'], 1, 1),
        ('The Who', ['Who'], 1, 1),
        ('The The', ['the'], 0, 1),  # nothing is left on either side: equal, and no word to overlap
        ('A', ['the'], 0, 1),
        ('an', ['An'], 0, 1),
        ('A', ['B'], 0, 0),  # a lone letter that is an article
        ('vitamin A', ['vitamin'], 1, 1),
        ('vitamin A', ['vitamin C'], 2 / 3, 0),
        ('Blood type A', ['type AB'], 2 / 4, 0),
        ('theatre', ['atre'], 0, 0),  # only whole words are articles
        ('another', ['other'], 0, 0),
        ('the-end', ['theend'], 1, 1),  # punctuation goes before articles, which joins the two
        ('a-the', ['athe'], 1, 1),
        ('A.B.C.', ['abc'], 1, 1),
        ('a b c', ['abc'], 0, 0),
        ('a b c', ['B C'], 1, 1),
        ('An. apple', ['apple'], 1, 1),
        ("a's", ['as'], 1, 1),
        ('the_end', ['theend'], 1, 1),  # an underscore is punctuation, gone before \b is looked for
        ('theé', ['é'], 0, 0),  # é is a letter of the word
        ('la the le', ['la le'], 1, 1),  # an article leaves a space behind
        ('los the', ['los', 'the'], 1, 1),
        ('le un une', ['un'], 2 / 4, 0),  # articles of other languages stay
    ],
    'ASCII punctuation': [
        ('...', ['!?'], 0, 1),
        ('well-known', ['well known'], 0, 0),  # deleted, not replaced by a space
        ('well-known', ['wellknown'], 1, 1),
        ('state-of-the-art', ['stateoftheart'], 1, 1),
        ('state - of - the - art', ['state of art'], 1, 1),
        ("The cat's hat", ['cats hat'], 1, 1),
        ("the dogs' home", ['dogs home'], 1, 1),
        ("O'Neill", ['ONeill'], 1, 1),
        ('rock/pop', ['rock pop'], 0, 0),
        ('AT&T', ['ATT'], 1, 1),
        ('AT & T', ['AT T'], 1, 1),
        ('C++', ['C#'], 1, 1),  # the rule cannot tell them apart
        ('a_b', ['ab'], 1, 1),
        ('(1) [2] {3} <4>', ['1 2 3 4'], 1, 1),
        (string.punctuation + 'x', ['x'], 1, 1),
        ('user@site.org', ['usersiteorg'], 1, 1),
    ],
    'other punctuation': [
        ('“Paris”', ['Paris'], 0, 0),  # curly quotes stay
        ('“Paris”', ['"Paris"'], 0, 0),
        ('cat’s', ["cat's"], 0, 0),
        ('“the end”', ['“ end”'], 1, 1),  # an article beside one still goes
        ('x—the—y', ['x— —y'], 1, 1),
        ('1914–1918', ['1914-1918'], 0, 0),  # an en dash stays, a hyphen goes
        ('1914–1918', ['1914–1918'], 1, 1),
        ('¿qué?', ['¿qué'], 1, 1),
        ('东京。', ['东京'], 0, 0),
        ('wait…', ['wait...'], 0, 0),
        ('x · y', ['x y'], 4 / 5, 0),  # a lone mark that stays is a word
    ],
    'numbers and currency': [
        ('$1,000.50', ['100050'], 1, 1),
        ('$1,000', ['1000 dollars'], 2 / 3, 0),
        ('1 000', ['1000'], 0, 0),
        ('3.5', ['35'], 1, 1),  # the rule cannot tell them apart
        ('-5', ['5'], 1, 1),
        ('50%', ['50'], 1, 1),
        ('50 %', ['50 percent'], 2 / 3, 0),
        ('€100', ['100'], 0, 0),  # not an ASCII mark
        ('£5', ['£5.'], 1, 1),
        ('two', ['2'], 0, 0),
        ('½', ['1/2'], 0, 0),
        ('１２', ['12'], 0, 0),  # full-width digits
        ('10:30 a.m.', ['1030 am'], 1, 1),
        ('10 a.m.', ['10 a m'], 2 / 4, 0),  # am against m: the lone a is an article
    ],
    'letters with marks': [
        ('café', ['cafe'], 0, 0),
        ('café', ['cafe\u0301'], 0, 0),  # composed and decomposed differ
        ('naïve idea', ['naive idea'], 1 / 2, 0),
        ('ﬁne', ['fine'], 0, 0),  # a ligature
    ],
    'white space': [
        ('  two \t words\n', ['two words'], 1, 1),
        ('two\u00a0words', ['two words'], 1, 1),  # a no-break space is one
        ('two\u3000words', ['two\u2003words'], 1, 1),  # and so are an ideographic and an em space
        ('two\x0bwords\x0c', ['two\r\nwords'], 1, 1),
        ('two\u200bwords', ['two words'], 0, 0),  # a zero-width space is not
        ('\ufeffParis', ['Paris'], 0, 0),
        ('co\u00adop', ['coop'], 0, 0),  # nor is a soft hyphen punctuation
    ],
    'repeated words': [
        ('la la la', ['la la'], 4 / 5, 0),  # 2 of 3 and 2 of 2
        ('la', ['la la la'], 1 / 2, 0),
        ('New York New York', ['New York'], 2 / 3, 0),
        ('x x y', ['x y y'], 2 / 3, 0),
    ],
    'nothing said': [
        ('', ['Paris'], 0, 0),
        ('Paris', [''], 0, 0),
        ('', [''], 0, 1),  # v1.1: no words, no F1, yet equal; v2.0 gives 1
        (' \n', ['the'], 0, 1),
        ('', ['Paris', ''], 0, 1),
        ('the', ['Paris'], 0, 0),
    ],
    'several golds': [
        ('London', ['Paris', 'London'], 1, 1),
        ('red and blue', ['red', 'red and green cars'], 4 / 7, 0),  # the second: 2 of 3 and 2 of 4
        ('Denver Broncos', ['Broncos', 'the Denver Broncos', 'Denver'], 1, 1),
        ('b a', ['a b c', 'b'], 1, 1),
        ('x y', ['y x', 'x y'], 1, 1),  # F1 and EM each take their best
        ('London', ('Rome', 'Oslo'), 0, 0),
    ],
}
CASES = [pytest.param(*case, id=f'{kind}: {case[0]!a}') for kind, cases in GOLDEN.items() for case in cases]


def test_there_are_enough():
    assert len(CASES) == sum(map(len, GOLDEN.values())) >= 60
    assert len({(case.values[0], tuple(case.values[1])) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(('prediction', 'golds', 'f1', 'exact'), CASES)
def test_answers(prediction, golds, f1, exact):
    assert metrics.f1(prediction, golds) == pytest.approx(f1, abs=1e-12)
    assert metrics.exact_match(prediction, golds) == exact


def test_normalise():
    assert metrics.normalise(' The  quick, (brown) FOX and an apple; a_b ') == 'quick brown fox and apple ab'


@pytest.mark.slow  # importing it takes seconds
def test_another_implementation_agrees():
    """torchmetrics has the rule of SQuAD v1.1 but for F1 where a side has no words: v2.0's 1 if both have none."""
    squad = pytest.importorskip(
        'torchmetrics.functional.text', reason="needs torchmetrics: pip install 'pic_jax[test]'"
    ).squad
    differ = 0
    for case in CASES:
        prediction, golds, f1, exact = case.values
        said = {'prediction_text': prediction, 'id': '1'}
        asked = {'answers': {'answer_start': [0] * len(golds), 'text': list(golds)}, 'id': '1'}
        found = squad([said], [asked])
        assert float(found['exact_match']) == 100 * exact, case.id
        if exact and not f1:
            differ += 1
            f1 = 1
        assert float(found['f1']) == pytest.approx(100 * f1, rel=1e-6), case.id
    assert differ == 7
