"""A compressor that is exported, copied elsewhere and loaded computes what it computed."""

import importlib.util
import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pic_jax
from pic_jax.cli.main import main
from pic_jax.config import LoraConfig
from pic_jax.data.tokenise import fingerprint, load_tokenizer
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop import artefact
from pic_jax.models import hf
from pic_jax.models.lora import adapted

HAS_TORCH = all(importlib.util.find_spec(name) for name in ('torch', 'peft'))
METHODS = {
    'pic': dict(chunk_size=8, projector='mlp'),
    'icae': dict(projector='linear'),
    'kv500x': {},
    'mean_pool': {},
    'icformer': {},
    'nested': dict(method='icae', ratios=(4, 8)),
    'bare': dict(method='icae', lora=LoraConfig(rank=0)),
}


def same_bits(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


@pytest.mark.parametrize(
    'name', [name if name == 'pic' else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_what_is_loaded_is_what_was_exported(random_compressor, tmp_path, name):
    trained = random_compressor(**{'method': name} | METHODS[name])
    artefact.export(trained, tmp_path / 'first')
    shutil.move(tmp_path / 'first', tmp_path / 'moved')
    again = artefact.load(tmp_path / 'moved')
    assert same_bits(again.trainable, trained.trainable)
    assert again.fingerprint == trained.fingerprint
    assert again.run.config == trained.run.config
    checks = artefact.check(again, tmp_path / 'moved')
    assert {each.field for each in checks} > {'positions', 'text_start', 'memory_lengths', 'tokens'}
    assert all(each.difference == 0 for each in checks)
    assert (tmp_path / 'moved' / 'adapter').exists() == (name not in ('icformer', 'bare'))


def change(folder, key, value):
    """Sets a key of an artefact's config.json."""
    values = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(values | {key: value}))


def test_a_changed_weight_is_noticed(random_compressor, tmp_path, capsys):
    artefact.export(random_compressor('pic', **METHODS['pic']), tmp_path / 'out')
    assert main(['check', str(tmp_path / 'out')]) == 0
    lines = capsys.readouterr().out.splitlines()
    runtimes = [line.partition(' ')[0] for line in lines if line.endswith(' ok')]
    assert len(runtimes) == len(lines)
    assert runtimes.count('jax') == 6
    assert runtimes.count('torch') == (4 if HAS_TORCH else 0)
    sha256 = json.loads((tmp_path / 'out' / 'config.json').read_text())['compressor_sha256']
    for file, name in (('pic.safetensors', 'memory_embeddings'),
                       ('adapter/adapter_model.safetensors',
                        'base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight')):  # fmt: skip
        path = tmp_path / 'out' / file
        before, tensors = path.read_bytes(), load_file(path)
        tensors[name] = tensors[name] * 1.01
        save_file(tensors, path, {'format': 'pic_compressor', 'format_version': '1'})
        assert main(['check', str(tmp_path / 'out')]) == 1
        message = capsys.readouterr().err
        (now,) = re.findall("compressor_sha256='[0-9a-f]{64}' is not valid: expected '([0-9a-f]{64})'", message)
        change(tmp_path / 'out', 'compressor_sha256', now)  # then only the golden memory tells
        assert main(['check', str(tmp_path / 'out'), '--json']) == 1
        rows = {(row['runtime'], row['field']): row for row in json.loads(capsys.readouterr().out)}
        for runtime in ('jax', 'torch') if HAS_TORCH else ('jax',):
            assert rows[runtime, 'embeddings']['difference'] > rows[runtime, 'embeddings']['limit'] == 1e-5
            assert rows[runtime, 'positions']['difference'] == 0
        path.write_bytes(before)
        change(tmp_path / 'out', 'compressor_sha256', sha256)


def test_the_merged_encoder_is_target_and_adapter(random_compressor, tmp_path):
    trained = random_compressor('icae', **METHODS['icae'])
    artefact.export(trained, tmp_path / 'out', merged=True)
    decoder, base = trained.run.decoder, trained.run.base
    assert hf.read_config(tmp_path / 'out' / 'merged') == decoder.config
    assert fingerprint(load_tokenizer(tmp_path / 'out' / 'merged')) == fingerprint(trained.run.tokenizer)
    merged = hf.load_params(tmp_path / 'out' / 'merged', decoder.config)
    tokens = np.arange(2, 40).reshape(2, 19)
    ours = decoder.apply(
        adapted(base, trained.trainable['lora'], trained.run.config.compressor.lora), tokens, method='forward'
    )
    found, plain = (decoder.apply({'params': params}, tokens, method='forward') for params in (merged, base))
    np.testing.assert_allclose(found, ours, atol=1e-4)
    assert np.abs(plain - ours).max() > 0.01


def broken(folder, what):
    """Damages an artefact in one way."""
    path = folder / {'rank': 'adapter/adapter_config.json'}.get(what, 'config.json')
    values = json.loads(path.read_text())
    if what == 'rank':
        values['r'] = 3
    elif what == 'version':
        values['format_version'] = '2'
    elif what == 'base':
        values['target']['identity'] = 'f' * 64
    elif what == 'settings':
        values['run']['compressor']['ratio'] = 'four'
    elif what == 'no run':
        del values['run']
    path.write_text(json.dumps(values))
    if what in ('missing', 'left over', 'shape'):
        tensors = load_file(folder / 'pic.safetensors')
        if what == 'missing':
            del tensors['special.lm']
        elif what == 'left over':
            tensors['extra'] = np.zeros(3, np.float32)
        else:
            tensors['memory_embeddings'] = tensors['memory_embeddings'][:, :5].copy()
        save_file(tensors, folder / 'pic.safetensors')
    if what == 'cut':
        (folder / 'pic.safetensors').write_bytes((folder / 'pic.safetensors').read_bytes()[:200])
    if what == 'no adapter':
        shutil.rmtree(folder / 'adapter')


@pytest.mark.parametrize(
    ('what', 'said'),
    [
        ('rank', 'adapter_config.json: r is 3, expected 2'),
        ('version', "format_version is '2', expected '1'"),
        ('base', 'belongs to another frozen model than .* the identity ffffffffffff'),
        ('settings', "compressor.ratio='four'"),
        ('no run', "config.json: 'run'"),
        ('missing', r'special.lm has shape None, expected \(32,\)'),
        ('left over', r'extra has shape \(3,\), expected None'),
        ('shape', r'memory_embeddings has shape \(2, 5\), expected \(2, 32\)'),
        ('cut', 'pic.safetensors: cannot be read'),
        ('no adapter', 'adapter_config.json: no such file'),
    ],
)
def test_what_does_not_fit_is_refused_and_named(exported, tmp_path, what, said):
    folder = shutil.copytree(exported, tmp_path / 'out')
    broken(folder, what)
    with pytest.raises(PicJaxError, match=said):
        artefact.load(folder)


@pytest.fixture(scope='module')
def exported(random_compressor, tmp_path_factory):
    folder = tmp_path_factory.mktemp('artefact') / 'pic'
    artefact.export(random_compressor('pic', **METHODS['pic']), folder)
    return folder


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('prefix', [0, 7], r'\[0\]'), ('prefix', None, r'\[0\]'), ('special', 'ae', "'lm'"),
        ('template', {'before': '', 'between': 'x', 'after': '', 'lead': ''}, "{'before': '', 'between': "),
        ('compressor_sha256', '0' * 64, "'[0-9a-f]{64}'"),
    ],
)  # fmt: skip
def test_what_pytorch_takes_from_config_json_is_what_jax_works_out(exported, tmp_path, key, value, expected):
    folder = shutil.copytree(exported, tmp_path / 'out')
    change(folder, key, value)
    with pytest.raises(PicJaxError, match=rf'out/config\.json: {key}=.* is not valid: expected {expected}'):
        artefact.load(folder)


def test_an_artefact_is_no_workdir(exported):
    with pytest.raises(PicJaxError, match='is an exported compressor, not a workdir: use `pic-jax check`'):
        pic_jax.load(exported)


def test_nothing_is_overwritten_or_left_half_written(exported, random_compressor, tmp_path):
    before = (exported / 'config.json').read_bytes()
    with pytest.raises(ConfigError, match='exists: expected a new folder'):
        artefact.export(random_compressor('pic', **METHODS['pic']), exported)
    assert (exported / 'config.json').read_bytes() == before
    with pytest.raises(ConfigError, match='nothing to merge: icformer has no adapter'):
        artefact.export(random_compressor('icformer', **METHODS['icformer']), tmp_path / 'out', merged=True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_exports_a_run(trained_workdir, tmp_path, capsys):
    out = tmp_path / 'out'
    command = ['export', f'--workdir={trained_workdir}', f'--out={out}', '--step=2', '--target=acme/llama@abc']
    assert main(command) == 0
    assert capsys.readouterr().out == f'{out}\n'
    config = json.loads((out / 'config.json').read_text())
    assert (config['target']['id'], config['target']['revision']) == ('acme/llama', 'abc')
    card = (out / 'README.md').read_text()
    assert card.startswith('---\nbase_model: acme/llama\nbase_model_relation: adapter\n')
    assert same_bits(artefact.load(out).trainable, pic_jax.load(trained_workdir, 2).trainable)
    assert main(command) == 2
