"""The small file of a trained compressor: what it keeps, where it may be named, what it refuses."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import pic_jax
from pic_jax.cli.main import main
from pic_jax.errors import PicJaxError
from pic_jax.run import TINY_BASE, named_folder, open_run
from pic_jax.training.start import initial_trainable
from pic_jax.training.weights import NAME, read_weights
from pic_jax.training.workdir import read_config


@pytest.fixture(scope='module')
def saved(tmp_path_factory, trained_workdir):
    folder = tmp_path_factory.mktemp('saved') / 'compressor'
    pic_jax.load(trained_workdir).save(folder)
    return folder


def test_a_saved_compressor_loads_as_it_was_up_to_bfloat16(saved, trained_workdir):
    before, after = (pic_jax.load(folder) for folder in (trained_workdir, saved))
    assert sorted(path.name for path in saved.iterdir()) == [NAME, 'config.json']
    assert after.run.config == before.run.config
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), before.trainable)
    assert jax.tree.all(jax.tree.map(np.array_equal, after.trainable, rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(after.trainable)} == {jnp.dtype('float32')}
    assert (saved / NAME).stat().st_size < 3000 + 2 * sum(leaf.size for leaf in jax.tree.leaves(before.trainable))


@pytest.mark.slow
def test_training_may_start_from_a_saved_compressor(saved, tmp_path, tiny_config_file):
    options = [f'--config.start={saved}', '--config.train.steps=1', '--config.seed=5']
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={tmp_path}', *options]) == 0
    run = open_run(read_config(tmp_path))
    begins = initial_trainable(run)
    assert jax.tree.all(jax.tree.map(np.array_equal, begins, pic_jax.load(saved).trainable))
    assert not jax.tree.all(jax.tree.map(np.array_equal, begins, run.init_trainable()))


def test_the_config_of_a_model_is_not_replaced(trained_workdir, tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    with pytest.raises(PicJaxError, match=rf'{tmp_path}/config\.json is not of a saved compressor'):
        pic_jax.load(trained_workdir).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']
    assert (tmp_path / 'config.json').read_text() == '{"model_type": "llama"}'


def test_weights_and_the_checkpoints_of_a_run_never_stand_in_one_folder(
    saved, trained_workdir, tmp_path, tiny_config_file, capsys
):
    before = sorted(trained_workdir.rglob('*'))
    with pytest.raises(PicJaxError, match=f'{trained_workdir} is the workdir of a run'):
        pic_jax.load(trained_workdir).save(trained_workdir)
    assert sorted(trained_workdir.rglob('*')) == before
    copy = shutil.copytree(saved, tmp_path / 'copy')
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={copy}']) == 2
    assert f'{copy} holds saved weights (compressor.safetensors)' in capsys.readouterr().err
    assert sorted(path.name for path in copy.iterdir()) == [NAME, 'config.json']


def test_folders_inside_the_package_have_names():
    assert named_folder('tiny_base') == TINY_BASE
    assert named_folder('tiny_base/pic') == TINY_BASE / 'pic'
    assert named_folder('tiny_base_2/pic') != TINY_BASE / 'pic'


LIKE = {'memory_embeddings': jnp.zeros((2, 3)), 'special': {'lm': jnp.zeros(3)}}
GOOD = {'memory_embeddings': np.zeros((2, 3), np.float32), 'special.lm': np.ones(3, np.float32)}
METADATA = {'format': 'pic-compressor', 'format_version': '1'}


def test_names_are_paths_of_the_tree(tmp_path):
    save_file(GOOD, tmp_path / NAME, METADATA)
    assert read_weights(tmp_path, LIKE)['special']['lm'].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ('tensors', 'metadata', 'message'),
    [
        (GOOD, {}, "format is None, expected 'pic-compressor'"),
        (GOOD, METADATA | {'format_version': '2'}, "format_version is '2', expected '1'"),
        (GOOD | {'special.lm': np.zeros(4)}, METADATA, r'special.lm has shape \(4,\), expected \(3,\)'),
        ({'special.lm': np.zeros(3)}, METADATA, r'memory_embeddings has shape None, expected \(2, 3\)'),
        (GOOD | {'more': np.zeros(1)}, METADATA, r'more has shape \(1,\), expected None'),
    ],
)
def test_other_files_are_refused(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / NAME, metadata)
    with pytest.raises(PicJaxError, match=f'{re.escape(str(tmp_path / NAME))}: {message}'):
        read_weights(tmp_path, LIKE)


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / NAME).write_bytes(b'not a safetensors file')
    with pytest.raises(PicJaxError, match='cannot be read'):
        read_weights(tmp_path, LIKE)
