"""Files that somebody made to do harm: refused before anything is allocated, followed or executed (SECURITY.md)."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from limits import memory_limit, time_limit
from refusals import refused
from safetensors.numpy import load_file, save_file

import pic_jax
from pic_jax.cli.main import main
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop import artefact
from pic_jax.models import hf, hub, orbax_base
from pic_jax.models.hf_files import copy_beside, tensor_files

TRAP = 'from pathlib import Path\nPath({!r}).write_text("ran")\nclass Evil:\n    pass\n'
CODE = ('modeling_evil.py', 'tokenization_evil.py', 'configuration_evil.py', 'evil.py', '__init__.py', 'conftest.py')
AUTO_MAP = {'AutoTokenizer': ['evil.Evil', 'evil.Evil'], 'AutoConfig': 'evil.Evil', 'AutoModel': 'evil.Evil',
            'AutoModelForCausalLM': 'evil.Evil'}  # fmt: skip


@pytest.fixture
def base(tmp_path, tiny_target, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_target, tmp_path / 'base'))


def edit(path: Path, **changes) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def index_of(base: Path, file: str) -> None:
    """A weight map that says all tensors are in `file`."""
    names = list(load_file(base / 'model.safetensors'))
    edit(base / 'model.safetensors.index.json', weight_map=dict.fromkeys(names, file))


@pytest.mark.parametrize(
    'name',
    ['../secret.safetensors', '../../x/secret.safetensors', 'a/../../secret.safetensors', './model.safetensors',
     'sub/model.safetensors', '..\\secret.safetensors', 'model.safetensors\0.json', 'model.safetensors\n', '',
     'pytorch_model.bin', 'model.pt', '~/model.safetensors', '$HOME.safetensors', '%2e%2e%2fsecret.safetensors',
     'file:///model.safetensors', '\u2024\u2024/secret.safetensors', None, 3, ['model.safetensors'], {}],
)  # fmt: skip
def test_a_weight_map_names_files_of_its_own_folder_only(base, capsys, name):
    shutil.copy(base / 'model.safetensors', 'secret.safetensors')
    Path('sub').mkdir()
    index_of(base, name)
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'which is not the name of a shard in this folder')


def test_an_absolute_shard_is_refused(base, capsys):
    secret = Path('secret.safetensors').absolute()
    shutil.copy(base / 'model.safetensors', secret)
    index_of(base, str(secret))
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'which is not the name of a shard in this folder')


@pytest.mark.parametrize('sharded', [False, True])
def test_a_link_out_of_the_folder_is_not_followed(base, capsys, sharded):
    file = base / 'model.safetensors'
    if sharded:
        index_of(base, 'shard.safetensors')
        file = file.rename(base / 'shard.safetensors')
    file.rename('elsewhere.safetensors')
    file.symlink_to('../elsewhere.safetensors')
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, file.name, 'is a link to', 'expected a file in it')
    file.unlink()
    file.symlink_to(file.name)  # to itself
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, file.name)


def test_links_within_the_folder_and_of_the_hub_cache_are_followed(base):
    weights = base / 'model.safetensors'
    weights.rename(base / 'real.safetensors')
    weights.symlink_to('real.safetensors')
    assert set(tensor_files(base).values()) == {weights}
    snapshot = base.parent / 'models--a--b' / 'snapshots' / 'abc'
    blobs = snapshot.parents[1] / 'blobs'
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    shutil.copy(base / 'real.safetensors', blobs / '0123')
    (snapshot / 'model.safetensors').symlink_to('../../blobs/0123')
    assert tensor_files(snapshot)
    linked = base.parent / 'linked'
    linked.symlink_to(base)
    assert tensor_files(linked)


@pytest.mark.parametrize('file', ['pic.safetensors', 'golden.safetensors', 'adapter/adapter_model.safetensors'])
def test_a_link_out_of_an_artefact_is_not_followed(exported_compressor, tmp_path, file):
    folder = shutil.copytree(exported_compressor, tmp_path / 'pic')
    (folder / file).rename(tmp_path / 'elsewhere')
    (folder / file).symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(PicJaxError, match=r'is a link to .*, which is outside'):
        artefact.check(artefact.load(folder), folder)


@pytest.mark.parametrize('linked', ['params', 'params/d', 'params/manifest.ocdbt'])
def test_a_link_out_of_an_orbax_base_is_not_followed(base, capsys, linked):
    orbax_base.from_hf(base, Path('orbax'), 'base')
    (Path('orbax') / linked).rename('elsewhere')
    (Path('orbax') / linked).symlink_to(Path('elsewhere').absolute())
    refused(capsys, ['convert', '--base=orbax', '--out=out'], 1, f'{linked} is a link to', 'which is outside')


def test_a_link_to_a_link_out_of_an_orbax_base_is_not_followed(base, capsys):
    orbax_base.from_hf(base, Path('orbax'), 'base')
    Path('orbax/params/d').rename('elsewhere')
    Path('orbax/x').mkdir()
    Path('orbax/params/d').symlink_to('../x')
    for file in Path('elsewhere').iterdir():
        Path('orbax/x', file.name).symlink_to(file.absolute())
    refused(capsys, ['convert', '--base=orbax', '--out=out'], 1, 'is a link to', 'which is outside')


def test_a_link_out_of_a_saved_compressor_is_not_followed(trained_workdir, tmp_path):
    pic_jax.load(trained_workdir).save(tmp_path / 'saved')
    weights = tmp_path / 'saved' / 'compressor.safetensors'
    weights.rename(tmp_path / 'elsewhere')
    weights.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(PicJaxError, match=r'compressor\.safetensors is a link to .*, which is outside'):
        pic_jax.load(tmp_path / 'saved')


@pytest.mark.parametrize('name', ['param.safetensors', 'model.safetensors'])
def test_convert_takes_no_tensors_that_a_link_fetches(base, capsys, name):
    folder = Path('icformer')
    folder.mkdir()
    edit(folder / 'config.json', model_type='icformer', hidden_size=32, context_hidden_size=32, num_attention_heads=4)
    for each in 'param.safetensors', 'model.safetensors':
        save_file({'x': np.zeros(1, np.float32)}, folder / each)
    (folder / name).rename('elsewhere')
    (folder / name).symlink_to('../elsewhere')
    command = ['convert', '--base=base', f'--icformer={folder}', '--out=out']
    refused(capsys, command, 1, f'{name} is a link to', 'which is outside')


def test_convert_copies_no_file_of_the_machine_that_a_link_names(base, capsys):
    """A folder that is converted and then published must not carry the user's own files."""
    Path('id_rsa').write_text('private')
    (base / 'tokenizer.model').symlink_to('../id_rsa')
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'tokenizer.model is a link to', 'id_rsa')
    assert not Path('out').exists()
    with pytest.raises(PicJaxError, match='is a link to'):
        copy_beside(base, Path('.'))
    assert not Path('tokenizer.model').exists()


@pytest.mark.parametrize('name', ['hub:../x', 'hub:/etc/passwd', 'hub:a', 'hub:a/b/c', 'hub:a/b@', 'hub:a/b@../../c',
                                  'hub:a/b@c/../../d', 'hub:a/b@c d', 'hub:'])  # fmt: skip
def test_a_name_on_the_hub_is_no_path(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises((ConfigError, PicJaxError), match=r'is not valid|cannot be downloaded'):
        hub.snapshot(name)


# What is said of a size, {0}; the model has 4 heads, which makes {1} rows.
ABSURD = {
    'num_hidden_layers': 'num_hidden_layers={0} does not fit: the checkpoint has 21 tensors',
    'vocab_size': 'model.embed_tokens.weight has shape (600, 32) instead of ({0}, 32)',
    'hidden_size': 'model.embed_tokens.weight has shape (600, 32) instead of (600, {0})',
    'intermediate_size': 'mlp.up_proj.weight has shape (48, 32) instead of ({0}, 32)',
    'head_dim': 'self_attn.q_proj.weight has shape (32, 32) instead of ({1}, 32)',
}


@pytest.mark.parametrize('key', ABSURD)
@pytest.mark.parametrize('size', [10**7, 2**40, 2**62, 2**64])
def test_absurd_sizes_cost_neither_time_nor_memory(base, key, size):
    edit(base / 'config.json', **{key: size})
    said = re.escape(ABSURD[key].format(size, 4 * size))
    with memory_limit(2**27), time_limit(20), pytest.raises(PicJaxError, match=said):
        hf.open_weights(base, hf.read_config(base))


def changed_compressor(exported_compressor: Path, folder: Path, changes: dict) -> Path:
    """A copy of the artefact with other settings."""
    shutil.copytree(exported_compressor, folder)
    values = json.loads((folder / 'config.json').read_text())
    values['run']['compressor'] |= changes
    (folder / 'config.json').write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'context_length': 2**62, 'memory_embeddings': 'per_window'}, 'memory_embeddings has shape'),
        ({'chunk_size': 2**62}, 'memory_embeddings has shape'),
        ({'lora': {'rank': 2**40, 'alpha': 1.0, 'targets': ['q_proj']}}, 'r is 2, expected 1099511627776'),
        (
            {'method': 'icformer', 'context_sees': 'causal', 'icformer': {'layers': 2**40}},
            r'icformer\.layers\.\S+ has shape None, expected \(1099511627776, 32\)',
        ),
    ],
    ids=str,
)
def test_absurd_sizes_of_a_compressor_are_refused_at_no_cost(exported_compressor, tmp_path, changes, said):
    folder = changed_compressor(exported_compressor, tmp_path / 'pic', changes)
    with memory_limit(2**30), time_limit(60), pytest.raises(PicJaxError, match=said):
        artefact.load(folder)


@pytest.mark.parametrize('key', ['context_length', 'window'])
def test_absurd_lengths_that_shape_no_tensor_cost_nothing(exported_compressor, tmp_path, key):
    """They bound what a context may have, and short contexts do not reach them."""
    folder = changed_compressor(exported_compressor, tmp_path / 'pic', {key: 2**62})
    with memory_limit(2**30), time_limit(60):
        with pytest.raises(PicJaxError, match='compressor_sha256=') as refusal:  # of these settings, which are usable
            artefact.load(folder)
        edit(folder / 'config.json', compressor_sha256=str(refusal.value)[-65:-1])
        loaded = artefact.load(folder)
    assert loaded.trainable['memory_embeddings'].shape == (2, 32)


@pytest.mark.slow
def test_code_beside_a_checkpoint_is_not_run(base, tmp_path):
    """In a process of its own, which could import evil.py from where it runs."""
    trap = tmp_path / 'trap'
    for name in CODE:
        (base / name).write_text(TRAP.format(str(trap)))
    shutil.copy(base / 'evil.py', tmp_path)
    for file in ('config.json', 'tokenizer_config.json'):
        edit(base / file, auto_map=AUTO_MAP, custom_pipelines={'x': {'impl': 'evil.Evil'}}, _target_='evil.Evil',
             _attn_implementation_internal='evil/evil', attn_implementation='evil/evil')  # fmt: skip
    (tmp_path / 'note.txt').write_text('Mara lives in Stonehaven.')
    code = (
        'from pic_jax.cli.main import main; '
        'codes = [main(["tokenize", "note.txt", "--base=base", "--out=tokens"]), '
        'main(["convert", "--base=base", "--out=out"])]; assert codes == [0, 0], codes'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not trap.exists()
    assert not list((tmp_path / 'out').glob('*.py'))


def test_a_tokenizer_class_cannot_make_transformers_read_a_pickle(base, capsys):
    """AutoTokenizer calls `from_pretrained` of any class of transformers; a model's reads pytorch_model.bin."""
    edit(base / 'tokenizer_config.json', tokenizer_class='LlamaForCausalLM')
    (base / 'pytorch_model.bin').write_bytes(b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.')
    Path('note.txt').write_text('text')
    refused(capsys, ['tokenize', 'note.txt', '--base=base', '--out=out'], 1, "tokenizer_class='LlamaForCausalLM'")


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'adapter_model.bin', 'model.pt', 'param.pt', 'model.npz'])
def test_a_pickle_is_not_read_in_the_place_of_safetensors(base, capsys, name):
    (base / 'model.safetensors').unlink()
    (base / name).write_bytes(b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.')
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'model.safetensors: no such file')


def test_an_artefact_without_safetensors_is_refused_in_pytorch_too(exported_compressor, tmp_path):
    pytest.importorskip('torch', reason='needs torch')
    pytest.importorskip('peft', reason='needs peft')
    from pic_jax.torch_runtime import Compressor

    folder = shutil.copytree(exported_compressor, tmp_path / 'pic')
    (folder / 'adapter' / 'adapter_model.safetensors').rename(folder / 'adapter' / 'adapter_model.bin')
    base = json.loads((folder / 'config.json').read_text())['run']['base']
    with pytest.raises(ValueError, match=r'has no adapter_model\.safetensors'):
        Compressor.from_pretrained(folder, base=base)
    model = shutil.copytree(base, tmp_path / 'base')
    (model / 'model.safetensors').rename(model / 'pytorch_model.bin')
    with pytest.raises(OSError, match='safetensors'):
        Compressor.from_pretrained(folder, base=model)


def in_pytorch(exported_compressor: Path, base: Path) -> None:
    """Loads a copy of the artefact whose config.json names `base`, as transformers' own loaders would find it."""
    pytest.importorskip('torch', reason='needs torch')
    pytest.importorskip('peft', reason='needs peft')
    from pic_jax.torch_runtime import Compressor

    folder = Path('pic')
    if not folder.exists():
        shutil.copytree(exported_compressor, folder)
    target = json.loads((folder / 'config.json').read_text())['target']
    edit(folder / 'config.json', target=target | {'id': str(base)})
    Compressor.from_pretrained(folder)


def test_pytorch_runs_no_code_beside_a_checkpoint_whatever_is_answered(exported_compressor, base, monkeypatch):
    """transformers asks on stdin whether it shall."""
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    trap = base.parent / 'trap'
    for name in CODE:
        (base / name).write_text(TRAP.format(str(trap)))
    for file, model_type in ('tokenizer_config.json', 'llama'), ('config.json', 'evil'):
        edit(base / file, auto_map=AUTO_MAP)
        edit(base / 'config.json', model_type=model_type)
        try:
            in_pytorch(exported_compressor, base)
        except ValueError as error:
            assert 'trust_remote_code' in str(error)  # noqa: PT017
        else:
            assert model_type == 'llama'  # has a tokenizer of transformers' own
        assert not trap.exists()


def test_pytorch_asks_for_no_kernel_that_a_config_names(exported_compressor, base):
    """transformers would fetch that repository, and run it."""
    edit(base / 'config.json', attn_implementation='owner/kernel')
    in_pytorch(exported_compressor, base)


@pytest.mark.parametrize('file', ['tokenizer_config.json', 'config.json'])
def test_pytorch_reads_no_pickle_for_a_tokenizer_either(exported_compressor, base, file):
    edit(base / file, tokenizer_class='LlamaForCausalLM')
    with pytest.raises(ValueError, match=r"tokenizer_class='LlamaForCausalLM' is not valid"):
        in_pytorch(exported_compressor, base)


@pytest.mark.parametrize('revision', ['..', 'a/../../b', 'a b', '', 3])
def test_a_revision_is_no_path_in_pytorch_either(exported_compressor, base, revision):
    shutil.copytree(exported_compressor, 'pic')
    target = json.loads(Path('pic/config.json').read_text())['target']
    edit(Path('pic/config.json'), target=target | {'revision': revision})
    with pytest.raises(ValueError, match=r'target\.revision=.* is not valid: expected a branch, tag or commit'):
        in_pytorch(exported_compressor, base)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(base, value):
    tensors = load_file(base / 'model.safetensors')
    for name, index in ('model.layers.1.mlp.up_proj.weight', (0, 0)), ('model.norm.weight', (-1,)):
        before = tensors[name][index]
        tensors[name][index] = value
        save_file(tensors, base / 'model.safetensors')
        with pytest.raises(PicJaxError, match=f'{name} holds a number that is not finite'):
            hf.load_params(base, hf.read_config(base))
        tensors[name][index] = before


def test_an_orbax_base_with_weights_that_are_no_numbers_is_refused(base):
    orbax_base.from_hf(base, Path('orbax'), 'base')
    params = orbax_base.load(Path('orbax'), hf.read_config(base))
    params['norm']['weight'] = params['norm']['weight'].at[-1].set(np.nan)
    shutil.rmtree('orbax/params')
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path('orbax/params').absolute(), params)
    with pytest.raises(PicJaxError, match=r'norm\.weight holds a number that is not finite'):
        orbax_base.load(Path('orbax'), hf.read_config(base))


def test_an_artefact_for_another_model_is_refused(exported_compressor, base):
    tensors = load_file(base / 'model.safetensors')
    tensors['model.norm.weight'] *= 1.001
    save_file(tensors, base / 'model.safetensors')
    with pytest.raises(PicJaxError, match='belongs to another frozen model'):
        artefact.load(exported_compressor, base=str(base))


def test_an_artefact_for_another_tokenizer_is_refused(exported_compressor, base):
    values = json.loads((base / 'tokenizer.json').read_text())
    values['pre_tokenizer']['add_prefix_space'] = True
    (base / 'tokenizer.json').write_text(json.dumps(values))
    with pytest.raises(PicJaxError, match='was trained with another tokenizer'):
        artefact.load(exported_compressor, base=str(base))


def test_names_in_a_file_do_not_steer_the_terminal(base, capsys):
    tensors = load_file(base / 'model.safetensors') | {'a\nb\x1b[2J\x9b31m\u202eevil': np.zeros(1, np.float32)}
    save_file(tensors, base / 'model.safetensors')
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, r'unexpected a\nb\x1b[2J\x9b31m\u202eevil')


def test_the_name_of_a_base_does_not_steer_the_terminal(exported_compressor, base, capsys):
    pytest.importorskip('torch', reason='needs torch')
    pytest.importorskip('peft', reason='needs peft')
    name = 'orbax\x1b[2J'
    orbax_base.from_hf(base, Path(name), 'base')
    shutil.copytree(exported_compressor, 'pic')
    edit(Path('pic/config.json'), run=json.loads(Path('pic/config.json').read_text())['run'] | {'base': name})
    capsys.readouterr()
    assert main(['check', 'pic']) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert r"cannot read 'orbax\x1b[2J'" in line
    assert line.isprintable()


def test_a_message_has_an_end(base, capsys):
    tensors = load_file(base / 'model.safetensors')
    save_file(tensors | {f'extra.{n}': np.zeros(1, np.float32) for n in range(5000)}, base / 'model.safetensors')
    refused(capsys, ['convert', '--base=base', '--out=out'], 1, 'unexpected extra.0', '...')


def test_a_header_at_the_limit_of_safetensors_costs_less_than_it_says(tmp_path):
    """100 MB is the library's limit; a header that says more is refused unread."""
    path = tmp_path / 'model.safetensors'
    with path.open('wb') as file:
        file.write((200_000_000).to_bytes(8, 'little'))
        file.truncate(200_000_008)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with memory_limit(2**28), pytest.raises(PicJaxError, match='header too large'):
        tensor_files(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5
