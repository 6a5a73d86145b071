"""Scores against values worked out by hand from the official SQuAD v1.1 rule."""

import math

import numpy as np
import pytest

from pic_jax.errors import PicJaxError
from pic_jax.evaluation import metrics

# prediction, golds, F1, exact match
GOLDEN = [
    ('Paris', ['Paris'], 1.0, 1),
    ('paris', ['PARIS'], 1.0, 1),
    ('the Eiffel Tower', ['Eiffel Tower'], 1.0, 1),
    ('Eiffel Tower!', ['An Eiffel, Tower.'], 1.0, 1),
    ('in Paris', ['Paris'], 2 / 3, 0),
    ('London', ['Paris'], 0.0, 0),
    ('London', ['Paris', 'London'], 1.0, 1),
    ('red and blue', ['red', 'red and green cars'], 4 / 7, 0),  # the second gold: 2 of 3 and 2 of 4
    ('', ['Paris'], 0.0, 0),
    ('Paris', [''], 0.0, 0),
    ('', [''], 0.0, 1),  # v1.1: no words, no F1, yet equal
    ('the', ['a'], 0.0, 1),  # both empty once articles are gone
    ('...', ['!?'], 0.0, 1),
    ('A.B.C.', ['abc'], 1.0, 1),  # punctuation goes before articles, so no lone a is left
    ('a b c', ['abc'], 0.0, 0),
    ('well-known', ['well known'], 0.0, 0),  # deleted, not replaced by a space
    ("The cat's hat", ['cats hat'], 1.0, 1),
    ('theatre', ['atre'], 0.0, 0),  # only whole words are articles
    ('the-end', ['theend'], 1.0, 1),
    ('a-the', ['athe'], 1.0, 1),
    ('  two \t words\n', ['two words'], 1.0, 1),
    ('two\u00a0words', ['two words'], 1.0, 1),  # a no-break space is white space
    ('la la la', ['la la'], 0.8, 0),  # multiset: 2 of 3 and 2 of 2
    ('la', ['la la la'], 0.5, 0),
    ('words reordered', ['reordered words'], 1.0, 0),
    ('\u201cParis\u201d', ['Paris'], 0.0, 0),  # curly quotes are not ASCII punctuation
    ('\u201cthe end\u201d', ['\u201c end\u201d'], 1.0, 1),  # an article beside a curly quote still goes
    ('x\u2014the\u2014y', ['x\u2014 \u2014y'], 1.0, 1),  # it leaves a space behind
    ('$1,000.50', ['100050'], 1.0, 1),
    ('1 000', ['1000'], 0.0, 0),
    ('caf\u00e9', ['cafe'], 0.0, 0),  # accents count
    ('\u0130', ['i\u0307'], 1.0, 1),  # lower() of a dotted capital I is two code points
]


@pytest.mark.parametrize(('prediction', 'golds', 'f1', 'exact'), GOLDEN)
def test_answers(prediction, golds, f1, exact):
    assert metrics.f1(prediction, golds) == pytest.approx(f1, abs=1e-12)
    assert metrics.exact_match(prediction, golds) == exact


def test_normalise():
    assert metrics.normalise(' The  quick, (brown) FOX and an apple; a_b ') == 'quick brown fox and apple ab'


@pytest.mark.parametrize('golds', [[], (), 'Paris'])
@pytest.mark.parametrize('score', [metrics.f1, metrics.exact_match])
def test_golds_must_be_a_list_of_answers(score, golds):
    with pytest.raises(PicJaxError, match='golds='):
        score('Paris', golds)


@pytest.mark.parametrize(
    ('prediction', 'target', 'expected'),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1, 2, 9, 4], [1, 2, 3, 4], 0.5),
        ([9, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1], [1, 2, 3, 4], 0.25),
        ([1, 2, 3, 4, 5], [1, 2], 1.0),
        ([], [1], 0.0),
    ],
)
def test_prefix_match(prediction, target, expected):
    assert metrics.prefix_match(prediction, target) == expected
    assert metrics.prefix_match(np.array(prediction, int), np.array(target)) == expected


def test_prefix_match_needs_a_target():
    with pytest.raises(PicJaxError, match='target_ids'):
        metrics.prefix_match([1], [])


def test_bootstrap_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = metrics.bootstrap_interval(values, seed=0)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_bootstrap_interval_is_a_function_of_its_seed():
    values = [0.0, 1.0, 2.0, 5.0]
    assert metrics.bootstrap_interval(values, 3) == metrics.bootstrap_interval(values, 3)
    assert metrics.bootstrap_interval(values, 3, count=20) != metrics.bootstrap_interval(values, 4, count=20)
    assert metrics.bootstrap_interval([2.5], 0) == (2.5, 2.5)


def test_resamples_draw_whole_groups():
    times = metrics.resamples(['a', 'b', 'a', 'c', 'b', 'a'], seed=0, count=200)
    assert times.shape == (200, 6)
    groups = times[:, [0, 1, 3]]
    assert np.array_equal(times, groups[:, [0, 1, 0, 2, 1, 0]])
    assert (groups.sum(axis=1) == 3).all()
    assert set(groups.ravel()) == {0, 1, 2, 3}
    np.testing.assert_allclose(groups.mean(axis=0), 1, atol=0.2)


def test_an_interval_over_groups_of_equal_values_is_as_wide_as_over_one_value_of_each():
    values = list(np.random.default_rng(2).normal(size=30))
    repeated = [value for value in values for _ in range(12)]
    groups = [number for number in range(30) for _ in range(12)]
    assert metrics.bootstrap_interval(repeated, 0, groups) == pytest.approx(metrics.bootstrap_interval(values, 0))
    low, high = metrics.bootstrap_interval(repeated, 0)
    wide_low, wide_high = metrics.bootstrap_interval(values, 0)
    assert high - low < 0.5 * (wide_high - wide_low)


@pytest.mark.parametrize('values', [[], [1.0, math.nan], [math.inf]])
def test_bootstrap_interval_refuses_what_has_no_mean(values):
    with pytest.raises(PicJaxError, match='values='):
        metrics.bootstrap_interval(values, 0)


def test_gap_share():
    assert metrics.gap_share(2.0, 1.0, 1.25) == 0.75
    assert metrics.gap_share(2.0, 1.0, 2.5) == -0.5
    assert metrics.gap_share(2.0, 1.0, 1.0) == 1.0
    assert math.isnan(metrics.gap_share(2.0, 2.0, 1.0))
    assert math.isnan(metrics.gap_share(1.0, 2.0, 1.5))
