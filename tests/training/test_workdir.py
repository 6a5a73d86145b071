"""What a workdir lets in again: settings, metrics records and checkpoints."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import CompressorConfig, OptimizerConfig, PretrainConfig, RunConfig, TrainConfig, to_mapping
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.training.checkpoint import Checkpoints, score_of
from pic_jax.training.workdir import compare_config, read_config, write_config
from pic_jax.training.writers import MetricsFile

CONFIG = RunConfig(base='somewhere', decoder_prefix=(0,))


def change(group: str, **values) -> RunConfig:
    return dataclasses.replace(CONFIG, **{group: dataclasses.replace(getattr(CONFIG, group), **values)})


@pytest.mark.parametrize('config', [CONFIG, dataclasses.replace(CONFIG, compressor=CompressorConfig.preset('icae'))])
def test_a_config_is_read_back_as_written(tmp_path, config):
    assert compare_config(tmp_path / 'new', config) == []
    write_config(tmp_path / 'new', config)
    assert read_config(tmp_path / 'new') == config
    assert compare_config(tmp_path / 'new', config) == []
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['config.json']


def test_what_may_change_is_noted_and_kept(tmp_path):
    write_config(tmp_path, CONFIG)
    changed = dataclasses.replace(CONFIG, train=TrainConfig(steps=7), optimizer=OptimizerConfig(learning_rate=0.5))
    assert compare_config(tmp_path, changed) == ['optimizer.learning_rate: 0.001 -> 0.5', 'train.steps: 300 -> 7']
    write_config(tmp_path, changed)
    assert read_config(tmp_path) == changed


@pytest.mark.parametrize(
    ('other', 'named'),
    [
        (dataclasses.replace(CONFIG, seed=3), ['seed: 0 -> 3']),
        (dataclasses.replace(CONFIG, decoder_prefix=(0, 5)), ['decoder_prefix: (0,) -> (0, 5)']),
        (change('compressor', ratio=4, chunk_size=32), ['compressor.ratio: 8 -> 4', 'compressor.chunk_size: 64 -> 32']),
        (change('data', source='x.jsonl'), ['data.source: generated -> x.jsonl']),
        (change('train', batch_size=8, steps=9), ['train.batch_size: 16 -> 8']),
        (change('objective', ae=1.0), ['objective.ae: 0.0 -> 1.0']),
    ],
)
def test_what_decides_shapes_or_data_may_not_change(tmp_path, other, named):
    write_config(tmp_path, CONFIG)
    before = (tmp_path / 'config.json').read_bytes()
    with pytest.raises(ConfigError) as error:
        compare_config(tmp_path, other)
    for key in named:
        assert key in str(error.value)
    assert 'train.steps' not in str(error.value)  # it may change, so it is no reason
    assert (tmp_path / 'config.json').read_bytes() == before


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (None, 'is not a workdir'),
        ('{"seed": 1', 'not valid JSON'),
        ('[]', 'expected a JSON object'),
        ('{"sead": 1}', 'did you mean seed'),
        (json.dumps(to_mapping(PretrainConfig())), 'unknown config key'),
    ],
)
def test_a_broken_config_is_refused_by_name(tmp_path, text, said):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(PicJaxError, match=said) as error:
        read_config(tmp_path)
    assert str(tmp_path) in str(error.value)


def lines(*steps: int) -> str:
    return ''.join(json.dumps({'step': step, 'split': 'train', 'loss': 1.5}) + '\n' for step in steps)


@pytest.mark.parametrize('cut', ['{"step": 4, "lo', '{"step": 4, "loss": 2.0', '{}', '[4]', '"x'])
def test_a_cut_last_record_and_records_after_the_checkpoint_are_dropped(tmp_path, cut):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(lines(0, 1, 2, 2, 3) + cut)
    metrics = MetricsFile(path)
    assert [record['step'] for record in metrics.cut(2)] == [0, 1, 2, 2]
    assert path.read_text() == lines(0, 1, 2, 2)
    metrics.write({'step': 3, 'split': 'train', 'loss': 1.5})
    assert path.read_text() == lines(0, 1, 2, 2, 3)
    assert [file.name for file in tmp_path.iterdir()] == ['metrics.jsonl']


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ('{"step": 1, "loss": 2.0}', 'split=None is not valid: expected one of train, validation'),
        ('{"step": Infinity, "split": "train"}', 'step=inf is not valid: expected an integer of at least 0'),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(tmp_path, line, said):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(f'{lines(0)}{line}\n{lines(2)}')
    with pytest.raises(PicJaxError, match=rf'metrics\.jsonl:2: {said}'):
        MetricsFile(path).cut(2)


def test_a_damaged_earlier_record_is_refused_with_its_number(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(lines(0, 1) + '{"step": \n' + lines(2))
    before = path.read_bytes()
    with pytest.raises(PicJaxError, match=r'metrics\.jsonl:3: not valid JSON'):
        MetricsFile(path).cut(2)
    assert path.read_bytes() == before


STATE = {'step': jnp.int32(2), 'tree': ({'a': jnp.arange(6.0).reshape(2, 3)}, {'b': jnp.ones(4, jnp.bfloat16)})}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A folder into which three checkpoints went, of which two are kept."""
    folder = tmp_path_factory.mktemp('run') / 'checkpoints'
    checkpoints = Checkpoints(folder, keep=2)
    for step in (2, 4, 6):
        checkpoints.save(step, {**STATE, 'step': jnp.int32(step)})
    checkpoints.close()
    return folder


def test_the_best_checkpoint_is_kept_besides_the_newest(tmp_path):
    """Also by a later start, which has to find the scores on disk; a checkpoint without one is no best."""
    starts = [(1, -3.0), (2, -1.0), (3, None), (4, -2.0)], [(5, None), (6, -1.5)]
    kept = []
    for saves in starts:
        checkpoints = Checkpoints(tmp_path / 'checkpoints', keep=1)
        for step, score in saves:
            checkpoints.save(step, STATE, score)
        checkpoints.close()
        kept.append(sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()))
    assert kept == [['2', '4'], ['2', '6']]
    checkpoints = Checkpoints(tmp_path / 'checkpoints', keep=1)
    assert [checkpoints.find(step) for step in ('best', 'latest', 2)] == [2, 6, 2]
    for step in 4, 'worst':
        with pytest.raises(PicJaxError, match=f'step={step} is not valid: .*checkpoints has 2, 6, latest, best'):
            checkpoints.find(step)
    checkpoints.close()


def test_without_scores_there_is_no_best(saved):
    checkpoints = Checkpoints(saved, keep=2)
    with pytest.raises(PicJaxError, match=r'step=best is not valid: .*checkpoints has 4, 6, latest$'):
        checkpoints.find('best')
    checkpoints.close()


@pytest.mark.parametrize(('metric', 'score'), [('loss', -2.0), ('ft_exact', 0.5), ('', None)])
def test_a_score_is_higher_where_a_run_is_better(metric, score):
    assert score_of({'step': 3, 'loss': 2.0, 'ft_exact': 0.5}, metric) == score


def test_a_metric_that_no_validation_has_is_refused():
    with pytest.raises(PicJaxError, match=r"train\.best_metric='bleu' is not valid: expected one of loss, ft_exact"):
        score_of({'step': 3, 'loss': 2.0, 'ft_exact': 0.5}, 'bleu')


def test_a_checkpoint_of_another_base_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'checkpoints', keep=1, base='a' * 64)
    checkpoints.save(1, STATE)
    checkpoints.close()
    other = Checkpoints(tmp_path / 'checkpoints', keep=1, base='b' * 64)
    with pytest.raises(PicJaxError, match='trained for another base'):
        other.restore(1, STATE)
    other.close()


def opened(folder, like, step=6):
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(step, like)
    finally:
        checkpoints.close()


def test_a_checkpoint_gives_back_every_byte_and_the_newest_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == ['4', '6']
    state = opened(saved, STATE)
    assert int(state['step']) == 6
    assert isinstance(state['tree'], tuple)
    for name, index in (('a', 0), ('b', 1)):
        got, wanted = state['tree'][index][name], STATE['tree'][index][name]
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(wanted, np.float32))


@pytest.mark.parametrize(
    ('tree', 'said'),
    [
        (({'a': jnp.zeros((2, 3))}, {}), ['tree/1/b: saved, not wanted']),
        (({'a': jnp.zeros((2, 3)), 'c': jnp.zeros(1)}, STATE['tree'][1]), ['tree/0/c: wanted, not saved']),
        (({'a': jnp.zeros((3, 2))}, STATE['tree'][1]), ['tree/0/a: saved float32[2, 3], wanted float32[3, 2]']),
        (
            ({'c': jnp.zeros(1)}, {'b': jnp.ones(4)}),
            ['tree/0/a: saved, not wanted', 'tree/0/c: wanted, not saved', 'saved bfloat16[4], wanted float32[4]'],
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_every_difference(saved, tree, said):
    with pytest.raises(PicJaxError, match='does not fit this run') as error:
        opened(saved, {'step': jnp.int32(0), 'tree': tree})
    for difference in said:
        assert difference in str(error.value)


def test_a_damaged_checkpoint_is_one_line(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / 'checkpoints')
    for path in (copy / '6').rglob('*'):
        if path.is_file() and path.stat().st_size and 'METADATA' not in path.name.upper():
            path.write_bytes(b'\0' * path.stat().st_size)
    with pytest.raises(PicJaxError, match='6: cannot be restored') as error:
        opened(copy, STATE)
    assert '\n' not in str(error.value)
