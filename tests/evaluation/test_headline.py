"""How the headline experiment chooses and counts, and that the README shows what the stored rows say."""

import math
from pathlib import Path

import headline
import headline_report as report
import pages
import pytest
from headline_peers import peers_block

STEPS = report.COSTS['steps']
METRIC = 'nats_per_token'


def row(nats, steps=40, before=100):
    """A row whose last stage has these validation nats at even distances."""
    curve = [{'step': step * steps // (len(nats) - 1), 'ft_nats': value} for step, value in enumerate(nats)]
    return {'stages': [{'steps': before, 'curve': []}, {'steps': steps, 'curve': curve}]}


def test_a_curve_starts_at_what_the_earlier_stages_cost():
    spent, loss = report.curve(row([2.0, 1.5, 1.0]), STEPS)
    assert spent.tolist() == [100, 120, 140]
    assert loss.tolist() == [2.0, 1.5, 1.0]


def test_the_share_is_the_cost_until_as_good_as_the_baselines_best():
    baseline = row([2.0, 1.6, 1.2, 1.3, 1.25])  # best at step 20 of 40, after 120 steps in all
    assert report.passing_share(row([2.0, 1.2, 0.5]), baseline, STEPS, whole=True) == 120 / 120
    assert report.passing_share(row([1.1, 1.0, 0.5]), baseline, STEPS, whole=True) == 100 / 120
    assert report.passing_share(row([1.1, 1.0, 0.5]), baseline, STEPS, whole=False) == 0
    assert report.passing_share(row([2.0, 1.9, 1.21]), baseline, STEPS, whole=True) is None
    stuck = row([1.0, 1.1, 1.2])
    assert math.isnan(report.passing_share(row([0.9, 0.8, 0.7]), stuck, STEPS, whole=False))


def test_twice_as_fast_takes_half_of_the_steps_on_questions():
    baseline, fast = row([2.0, 1.75, 1.5, 1.25, 1.0]), row([2.0, 1.5, 1.0, 0.9, 0.8])
    assert report.passing_share(fast, baseline, STEPS, whole=False) == 0.5
    between = row([2.0, 0.0])  # a straight line passes 1.0 half way
    assert report.passing_share(between, baseline, STEPS, whole=False) == 0.5


@pytest.mark.parametrize(('last', 'flat'), [(0.995, True), (1.0, True), (1.1, True), (0.98, False), (0.5, False)])
def test_a_plateau_gains_less_than_a_hundredth_in_the_last_three_tenths(last, flat):
    # At 70% of the way the line from 1.0 (50%) to `last` (100%) has gone two fifths.
    assert report.plateaued(row([3.0, 1.0, last])) is flat


def test_the_spread_is_mean_and_range():
    assert report.spread([0.5, 0.1, 0.3], report.share) == '30.0% [10.0%, 50.0%]'
    assert report.spread([], report.share) == '-'


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / 'page.md'
    marked = '<!-- {0}: begin -->\n{{}}\n<!-- {0}: end -->\n'
    around = f'before\n{marked.format("headline")}between\n{marked.format("other")}after\n'
    path.write_text(around.format('old', 'old'))
    pages.write_between_marks(path, 'headline', 'new')
    pages.write_between_marks(path, 'headline', 'newer')
    assert path.read_text() == around.format('newer', 'old')
    pages.write_between_marks(path, 'other', 'new')
    assert path.read_text() == around.format('newer', 'new')


def trials(ratio=4, **nats):
    rate_key = headline.RATE_KEYS[ratio]
    return [
        {'label': label, 'ratio': ratio, 'rate': 5e-4, rate_key: rate}
        | {'rows': [{'task': 'qa', 'metric': METRIC, 'value': value}]}
        for label, values in nats.items()
        for rate, value in values.items()
    ]


@pytest.mark.parametrize(
    ('nats', 'beyond'),
    [
        ({2.5e-4: 1.0, 5e-4: 0.5, 1e-3: 0.7}, None),
        ({2.5e-4: 1.0, 5e-4: 0.5, 1e-3: 0.4}, 2e-3),
        ({2.5e-4: 0.1, 5e-4: 0.5, 1e-3: 0.4}, 1.25e-4),
        ({2.5e-4: 1.0, 5e-4: 0.5, 1e-3: 0.4, 2e-3: 0.3, 4e-3: 0.2}, None),
        ({}, 2.5e-4),
        ({2.5e-4: 1.0, 5e-4: 0.5, 7e-4: 0.7}, 1e-3),
    ],
)
def test_a_rate_is_searched_until_the_best_is_not_the_last(monkeypatch, nats, beyond):
    rows = trials(icae=nats, epl={1.0: 0.0}) + trials(ratio=8, icae={2.5e-3: 0.0})
    monkeypatch.setattr(headline, 'stored', lambda phase: rows)
    for label in ('icae', headline.WINDOWED):
        assert headline.next_rate(label, 4) == beyond
        if beyond is None:
            assert headline.best_rate(label, 4) == min(nats, key=nats.get)
        else:
            with pytest.raises(SystemExit, match=f'finish the rates of {label} first'):
                headline.best_rate(label, 4)


def test_trials_at_8x_count_only_from_the_best_rate_at_4x(monkeypatch):
    at_4x = trials(icae={2.5e-4: 1.0, 5e-4: 0.5, 1e-3: 0.7})
    at_8x = trials(ratio=8, icae={5e-4: 0.6, 1e-3: 0.5, 2e-3: 0.7})
    stale = [row | {'rate': 1e-3, 'rate_8x': 2e-3} for row in trials(ratio=8, icae={2e-3: 0.0})]
    diverged = [row | {'error': 'step 3 is not finite', 'rate_8x': 4e-3} for row in trials(ratio=8, icae={4e-3: 0.0})]
    monkeypatch.setattr(headline, 'stored', lambda phase: at_4x + at_8x + stale + diverged)
    assert headline.best_rate('icae', 8) == 1e-3
    assert headline.tried('icae', 8)[4e-3] == math.inf


def test_a_row_of_another_rate_is_not_taken_for_this_one(monkeypatch, tmp_path):
    monkeypatch.setattr(headline, 'RESULTS', tmp_path)
    training = headline.Training('main', 'pic', ('a=b',), 0, 5e-4, 1e-3, last=16)
    assert not training.is_done(4)
    for ratio in 4, 16:
        headline.write_row(training.path(ratio), {'rate': 5e-4, 'rate_8x': 2e-3, 'options': ['a=b']})
    assert training.is_done(4)  # which no rate at 8x has a part in
    with pytest.raises(SystemExit, match=r'rate_8x=0\.002, this training 0\.001'):
        training.is_done(16)


def test_the_rate_falls_with_the_square_root_of_the_ratio_from_8x_on():
    training = headline.Training('main', 'pic', (), 1, 5e-4, 1e-3, last=64)
    assert [training.rate_at(ratio) for ratio in (4, 8, 32)] == [5e-4, 1e-3, 5e-4]


def test_a_trial_at_8x_starts_from_the_trial_at_4x_and_leaves_one_row():
    at_4x = headline.Training('rate', 'pic', (), 0, 5e-4)
    at_8x = headline.Training('rate', 'pic', (), 0, 5e-4, 1e-3, last=8)
    other = headline.Training('rate', 'pic', (), 0, 5e-4, 2e-3, last=8)
    assert at_8x.folder('qa', 4) == at_4x.folder('qa', 4)
    assert at_8x.folder('qa', 8) != other.folder('qa', 8)
    assert at_8x.measured() == [8]
    assert len({at_8x.path(8), other.path(8), at_4x.path(4)}) == 3


def test_only_one_of_two_processes_gets_a_training(tmp_path):
    with headline.claimed(tmp_path, 'pic-s0') as first, headline.claimed(tmp_path, 'pic-s0') as second:
        assert first
        assert not second
    with headline.claimed(tmp_path, 'pic-s0') as later:
        assert later


def test_seconds_leave_out_the_quarter_that_compiles():
    records = [
        {'split': 'train', 'step': step, 'elapsed_s': time} for step, time in ((5, 60), (10, 5), (15, 6), (20, 50))
    ]
    assert headline.seconds([{'split': 'validation', 'step': 0}, *records]) == 6 / 5 * 20


def test_every_method_is_measured_at_every_ratio_from_the_same_pretraining():
    training = headline.Training('main', 'pic', (), 1, 5e-4, 1e-3, last=64)
    stages = [('words', 4), ('pretrain', 4), *(('qa', ratio) for ratio in (4, 8, 16, 32, 64))]
    assert training.stages() == stages
    constant = headline.Training('main', headline.CONSTANT, (), 1, 5e-4, last=16)
    assert constant.stages() == [('qa', 4), ('qa', 8), ('qa', 16)]


def test_word_lists_are_found_in_rows_of_either_kind():
    cells = [{'task': 'qa', 'metric': 'em', 'value': 0.25}]
    assert report.on_word_lists(cells) == 0.25
    assert report.on_word_lists([*cells, {'task': 'icl', 'metric': 'accuracy', 'value': 0.5}]) == 0.5
    assert math.isnan(report.on_word_lists([]))


def test_the_readme_shows_the_stored_rows():
    text = (Path(__file__).parents[2] / 'README.md').read_text()
    assert report.readme_block() in text
    assert peers_block() in text


def test_peers_are_trained_at_4x_and_keys_and_values_skip_words():
    stages = {
        label: headline.Training('main', label, headline.methods()[label], 0, 1e-3).stages() for label in headline.PEERS
    }
    assert stages['icformer'] == stages['mean_pool'] == [('words', 4), ('pretrain', 4), ('qa', 4)]
    assert stages['kv500x'] == stages['kv500x_windowed'] == [('pretrain', 4), ('qa', 4)]
    for label in headline.PEERS:
        training = headline.Training('main', label, headline.methods()[label], 0, 1e-3)
        for stage, ratio in training.stages():
            run = headline.open_stage(training, stage, ratio, '')
            compressor, method = run.config.compressor, headline.without_window(label)
            assert compressor.method == method
            assert compressor.window == (16 if label != method else None)
            assert compressor.projector == ('none' if method == 'kv500x' else 'linear')
