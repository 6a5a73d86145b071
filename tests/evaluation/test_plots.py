"""Pictures are checked by the colours in them; metrics.jsonl by what a broken line says."""

import os

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from pic_jax.errors import PicJaxError
from pic_jax.evaluation import plots


def pixels(path, colour: str) -> int:
    """How many pixels of a PNG have exactly this colour."""
    image = np.rint(imread(path)[..., :3] * 255).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((image == wanted).all(axis=-1).sum())


def icae_mask(tokens: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    kind = np.array([0] * tokens + [1] * slots)
    mask = np.tril(np.ones((len(kind), len(kind)), bool))
    return mask, kind


@pytest.mark.parametrize(('tokens', 'slots'), [(32, 8), (96, 24), (512, 128)])
def test_mask_areas_are_those_of_the_cells(tmp_path, tokens, slots):
    mask, kind = icae_mask(tokens, slots)
    plots.plot_mask(tmp_path / 'mask.png', mask, kind, np.zeros_like(kind), 'title')
    area = {name: pixels(tmp_path / 'mask.png', colour) for name, colour in plots._CELLS.items()}
    unit = area['context sees context'] / (tokens * (tokens + 1) / 2)
    assert area['memory sees context'] == pytest.approx(unit * tokens * slots, rel=0.1)
    assert area['memory sees memory'] == pytest.approx(unit * slots * (slots + 1) / 2, rel=0.2)
    assert area['context sees memory'] == 0  # a mask with queries as columns would show it
    assert unit * len(kind) ** 2 > 100_000


def test_mask_draws_chunk_boundaries_and_context_sees_memory(tmp_path):
    mask, kind = icae_mask(32, 8)
    mask[:32, 32:] = True
    chunk = np.array([0] * 16 + [1] * 16 + [0] * 4 + [1] * 4)
    plots.plot_mask(tmp_path / 'one.png', mask, kind, np.zeros_like(kind), '')
    plots.plot_mask(tmp_path / 'two.png', mask, kind, chunk, '')
    assert pixels(tmp_path / 'one.png', plots._CELLS['context sees memory']) > 10_000
    # Two axes, a boundary between chunks in each part and one where memory begins, about 800 pixels long each.
    assert pixels(tmp_path / 'two.png', '#777777') - pixels(tmp_path / 'one.png', '#777777') > 1500
    assert sorted(os.listdir(tmp_path)) == ['one.png', 'two.png']


def viridis(place: float) -> str:
    return '#' + bytes(colormaps['viridis'](place, bytes=True)[:3]).hex()


@pytest.mark.parametrize('layers', [1, 2, 4])
def test_attention_has_a_map_per_layer_and_one_of_the_mean(tmp_path, layers):
    """Every map of a diagonal attention is as bright on 1 / k of its area as the colour scale ends."""
    eye = np.repeat(np.eye(4), 8, axis=1) / 8
    plots.plot_attention(tmp_path / 'one.png', np.stack([eye] * layers), 'title')
    bright, dark = (pixels(tmp_path / 'one.png', viridis(end)) for end in (1.0, 0.0))
    assert bright > 5000 * (layers + 1)
    assert bright / (bright + dark) == pytest.approx(1 / 4, abs=0.03)


def test_attention_maps_share_one_scale_and_weak_attention_shows(tmp_path):
    strong = np.full((4, 32), 1 / 32)
    plots.plot_attention(tmp_path / 'one.png', np.stack([strong, strong / 4]), 'title')
    for place in (1.0, 0.5):  # on a square-root scale a quarter of the attention stands in the middle
        assert pixels(tmp_path / 'one.png', viridis(place)) > 5000


def records(offset: float) -> list[dict]:
    train = [{'step': step, 'split': 'train', 'loss': 3.0 + offset - step / 100} for step in range(10, 101, 10)]
    return [*train, {'step': 100, 'split': 'validation', 'loss': 2.0 + offset, 'nll_lm': 2.0}]


def test_curves_show_every_run_and_metric(tmp_path):
    plots.plot_curves(tmp_path / 'one.png', {'a': records(0)}, ('loss',))
    plots.plot_curves(tmp_path / 'two.png', {'a': records(0), 'b': records(1)}, ('loss', 'nll_lm'))
    first, second = plots.CURVES[:2]
    assert pixels(tmp_path / 'one.png', first) > 50
    assert pixels(tmp_path / 'one.png', second) == 0
    assert pixels(tmp_path / 'two.png', second) > 50
    assert imread(tmp_path / 'two.png').shape[0] > 1.5 * imread(tmp_path / 'one.png').shape[0]


def test_curves_name_a_metric_that_is_nowhere(tmp_path):
    with pytest.raises(PicJaxError, match="metric 'f1' is in no record of a: expected one of loss, nll_lm"):
        plots.plot_curves(tmp_path / 'x.png', {'a': records(0)}, ('loss', 'f1'))
    assert os.listdir(tmp_path) == []


def test_names_with_dollar_signs_are_no_formulas(tmp_path):
    """matplotlib would refuse this one; what is drawn is the name, not the escape."""
    name = '$HOME/a_{$'
    plots.plot_curves(tmp_path / 'curves.png', {name: records(0)}, ('loss',))
    plots.plot_sweep(tmp_path / 'sweep.png', {name: [(1, [0.5])]}, 'x', 'y')
    plots.plot_bars(tmp_path / 'bars.png', [{'method': name, 'value': 1.0}], 'x', 'title')
    assert sorted(os.listdir(tmp_path)) == ['bars.png', 'curves.png', 'sweep.png']


def test_bars_are_as_long_as_their_values(tmp_path):
    rows = [{'method': 'full_context', 'value': 1.0}, {'method': 'icae', 'value': 0.5}]
    plots.plot_bars(tmp_path / 'bars.png', rows, 'share', 'title')
    blue = np.rint(imread(tmp_path / 'bars.png')[..., :3] * 255).astype(int) == [0x00, 0x72, 0xB2]
    lengths = blue.all(axis=-1).sum(axis=1)
    upper, lower = np.split(lengths[lengths > 0], 2)
    assert np.median(lower) == pytest.approx(np.median(upper) / 2, rel=0.02)


def test_bars_with_intervals_and_negative_values(tmp_path):
    rows = [{'method': 'a', 'value': -0.1, 'low': -0.2, 'high': 0.1}, {'method': 'b', 'value': 0.0}]
    plots.plot_bars(tmp_path / 'bars.png', rows, 'share', 'title')
    assert pixels(tmp_path / 'bars.png', plots.CURVES[0]) > 500


@pytest.mark.parametrize('rows', [[], [{'method': 'a', 'value': float('nan')}]])
def test_bars_refuse_what_cannot_be_drawn(tmp_path, rows):
    with pytest.raises(PicJaxError, match=r'bars\.png'):
        plots.plot_bars(tmp_path / 'bars.png', rows, 'x', 'title')


def test_a_failed_save_keeps_the_old_picture(tmp_path, monkeypatch):
    plots.plot_curves(tmp_path / 'x.png', {'a': records(0)}, ('loss',))
    before = (tmp_path / 'x.png').read_bytes()

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(PicJaxError, match=r'x\.png: cannot be written: No space left'):
        plots.plot_curves(tmp_path / 'x.png', {'a': records(1)}, ('loss',))
    assert (tmp_path / 'x.png').read_bytes() == before
    assert os.listdir(tmp_path) == ['x.png']


GOOD = b'{"step": 1, "split": "train", "loss": 2.5}\n'


def test_read_metrics(tmp_path):
    (tmp_path / 'm').write_bytes(GOOD + b'{"step": 1, "split": "validation", "loss": 2}\n')
    assert plots.read_metrics(tmp_path / 'm') == [
        {'step': 1, 'split': 'train', 'loss': 2.5},
        {'step': 1, 'split': 'validation', 'loss': 2},
    ]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'm: has no records'),
        (GOOD + b'{"step": 2, "spl', 'm:2: not valid JSON'),
        (GOOD + b'\n' + GOOD, 'm:2: not valid JSON'),
        (GOOD + GOOD + b'\xff\xfe\x00\n', 'm:3: not valid JSON'),
        (GOOD + b'[' * 100_000, 'm:2: not valid JSON'),
        (GOOD + b'[1]\n', 'm:2: expected a JSON object, not list'),
        (b'{"split": "train"}\n', 'm:1: step=None .*integer'),
        (b'{"step": true, "split": "train"}\n', 'm:1: step=True'),
        (b'{"step": -1, "split": "train"}\n', 'm:1: step=-1'),
        (b'{"step": 1, "split": "test"}\n', "m:1: split='test' .*train, validation"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, content, message):
    (tmp_path / 'm').write_bytes(content)
    with pytest.raises(PicJaxError, match=message):
        plots.read_metrics(tmp_path / 'm')


def test_a_missing_metrics_file_is_named(tmp_path):
    with pytest.raises(PicJaxError, match='absent: cannot be read: No such file'):
        plots.read_metrics(tmp_path / 'absent')
