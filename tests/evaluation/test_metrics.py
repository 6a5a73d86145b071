"""Scores and intervals against values worked out by hand; EM and F1 are in test_squad_rule.py."""

import math

import numpy as np
import pytest

from pic_jax.errors import PicJaxError
from pic_jax.evaluation import metrics


@pytest.mark.parametrize('golds', [[], (), 'Paris'])
@pytest.mark.parametrize('score', [metrics.f1, metrics.exact_match, metrics.rouge, metrics.solved])
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


# prediction, golds, ROUGE-1, ROUGE-L: F of matching words, and of the longest common subsequence of words.
ROUGES = [
    ('the cat sat', ['The cat sat.'], 1, 1),  # articles count, case and punctuation do not
    ('the cat sat', ['sat the cat'], 1, 2 / 3),
    ('cats', ['cat'], 0, 0),  # no stemmer
    ('well-known', ['well known'], 1, 1),
    ('a b c d', ['a x c'], 4 / 7, 4 / 7),
    ('b a a', ['a a b'], 1, 2 / 3),
    ('la la la', ['la'], 1 / 2, 1 / 2),
    ('', ['Paris'], 0, 0),
    ('', [''], 0, 0),
    ('Москва', ['Москва'], 0, 0),  # no letter a-z
    ('café', ['caf'], 1, 1),
    ('c b a', ['a b c x', 'x c b'], 6 / 7, 2 / 3),  # each takes its best gold
]


@pytest.mark.parametrize(('prediction', 'golds', 'rouge1', 'rougeL'), ROUGES)
def test_rouge(prediction, golds, rouge1, rougeL):
    assert metrics.rouge(prediction, golds) == pytest.approx({'rouge1': rouge1, 'rougeL': rougeL}, abs=1e-12)


def test_rouge_signature_says_how():
    assert metrics.rouge_signature().startswith('rouge1+rougeL|score:f|golds:best|stemmer:no|tok:default|version:0.1.')


def test_rouge_needs_no_data_of_nltk(monkeypatch):
    """nltk would look for data, and could ask for a download, through this."""
    import nltk.data

    monkeypatch.setattr(nltk.data, 'find', None)
    monkeypatch.setattr(nltk.data, 'load', None)
    metrics._rouge_scorer.cache_clear()
    assert metrics.rouge('it rained', ['it rained.'])['rougeL'] == 1


@pytest.mark.parametrize(
    ('prediction', 'golds', 'expected'),
    [
        ('dax', ['dax'], 1),
        ('A Dax.', ['dax'], 1),
        ('wug', ['dax'], 0),
        ('6 * 7 = 42\n#### 42', ['7 + 35 = <<7+35=42>>42\n#### 42'], 1),
        ('#### $1,200', ['so #### 1200'], 1),
        ('#### 1 #### 2', ['#### 2'], 1),
        ('6 * 7 = 42', ['6 * 7 = 42\n#### 42'], 0),
        ('#### 42', ['41 #### 41', '42'], 1),
        ('', ['#### 42'], 0),
    ],
)
def test_solved_compares_final_answers(prediction, golds, expected):
    assert metrics.solved(prediction, golds) == expected


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
