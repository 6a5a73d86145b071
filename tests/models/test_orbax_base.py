"""A model goes from Hugging Face to Orbax and back without a changed bit, and a run reads either."""

import hashlib
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pic_jax.cli.main import main
from pic_jax.errors import PicJaxError
from pic_jax.models import hf, orbax_base
from pic_jax.run import TINY_BASE, load_base
from pic_jax.training.sharding import single_device_mesh


@pytest.fixture(scope='module')
def orbax(tmp_path_factory):
    out = tmp_path_factory.mktemp('orbax') / 'base'
    assert main(['convert', '--base=tiny_base', f'--out={out}']) == 0
    return out


def bits(tensors):
    return {name: (tensor.dtype.name, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}


def test_there_and_back(orbax, tmp_path):
    assert main(['convert', f'--base={orbax}', f'--out={tmp_path / "back"}']) == 0
    wanted, found = (load_file(folder / 'model.safetensors') for folder in (TINY_BASE, tmp_path / 'back'))
    assert bits(found) == bits(wanted)
    assert {tensor.dtype for tensor in wanted.values()} == {np.dtype(ml_dtypes.bfloat16)}
    for name in 'config.json', 'tokenizer.json', 'tokenizer_config.json':
        for folder in orbax, tmp_path / 'back':
            assert (folder / name).read_bytes() == (TINY_BASE / name).read_bytes()


def test_it_names_its_source(orbax):
    values = json.loads((orbax / 'source.json').read_text())
    digest = hashlib.sha256((TINY_BASE / 'model.safetensors').read_bytes()).hexdigest()
    assert values['sha256'] == {'model.safetensors': digest}
    assert values['source'] == 'tiny_base'


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_run_reads_what_it_would_read_from_hugging_face(orbax, dtype):
    config = hf.read_config(TINY_BASE)
    wanted, found = (load_base(folder, config, np.dtype(dtype), single_device_mesh()) for folder in (TINY_BASE, orbax))
    assert jax.tree.structure(wanted) == jax.tree.structure(found)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        assert a.dtype == b.dtype == dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ('what', 'said'),
    [
        ('version', r"source.json: format_version is '2', expected '1'"),
        ('layers', r'layers.input_layernorm.weight has shape \(\d+, \d+\), expected \(1, \d+\)'),
        ('tied', r'lm_head.kernel has shape None, expected \(\d+, \d+\)'),
        ('damaged', r'params: cannot be read'),
        ('gone', r'params: cannot be read'),
    ],
)
def test_what_does_not_fit_is_refused(orbax, tmp_path, what, said):
    folder = tmp_path / 'base'
    shutil.copytree(orbax, folder)
    if what == 'version':
        values = json.loads((folder / 'source.json').read_text())
        (folder / 'source.json').write_text(json.dumps(values | {'format_version': '2'}))
    elif what in ('layers', 'tied'):
        values = json.loads((folder / 'config.json').read_text())
        changed = {'num_hidden_layers': 1} if what == 'layers' else {'tie_word_embeddings': False}
        (folder / 'config.json').write_text(json.dumps(values | changed))
    elif what == 'damaged':
        for file in (folder / 'params').rglob('*'):
            if file.is_file() and 'METADATA' not in file.name.upper():
                file.write_bytes(b'x')
    else:
        shutil.rmtree(folder / 'params')
    with pytest.raises(PicJaxError, match=said):
        orbax_base.load(folder, hf.read_config(folder))


def test_the_command_refuses_what_is_there(orbax, tmp_path, capsys):
    assert main(['convert', '--base=tiny_base', f'--out={orbax}']) == 2
    assert 'exists: expected a new folder' in capsys.readouterr().err
    assert main(['convert', '--base=tiny_base', f'--out={tmp_path / "out"}', '--ratio=4']) == 2
    assert '--ratio is not valid here' in capsys.readouterr().err


def test_engines_are_given_words_from_hugging_face_folders(orbax, tmp_path, capsys):
    (tmp_path / 'note.txt').write_text('The key is under the stone.')
    stored = tmp_path / 'c.safetensors'
    assert main(['compress', '--workdir=tiny_base/pic', str(tmp_path / 'note.txt'), f'--out={stored}']) == 0
    command = ['contexts', 'to', 'hf', str(stored), f'--out={tmp_path / "hf"}']
    assert main([*command, f'--base={orbax}']) == 2
    assert 'is an Orbax base: expected Hugging Face format' in capsys.readouterr().err
    assert main([*command, '--base=tiny_base']) == 0


def test_what_cannot_be_read_leaves_nothing(orbax, tmp_path, capsys):
    folder = shutil.copytree(orbax, tmp_path / 'base')
    shutil.rmtree(folder / 'params')
    assert main(['convert', f'--base={folder}', f'--out={tmp_path / "out"}']) == 1
    assert 'params: cannot be read' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['base']


def test_a_source_that_does_not_fit_leaves_nothing(tmp_path, capsys):
    source = shutil.copytree(TINY_BASE, tmp_path / 'source', ignore=shutil.ignore_patterns('pic', 'icae'))
    tensors = load_file(TINY_BASE / 'model.safetensors')
    del tensors['model.norm.weight']
    save_file(tensors, source / 'model.safetensors')
    assert main(['convert', f'--base={source}', f'--out={tmp_path / "out"}']) == 1
    assert 'missing model.norm.weight' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
