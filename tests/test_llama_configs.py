"""The configurations of real models: valid settings in every form, meshes that fit, shapes that the papers state."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from pic_jax.budget import memory_slots
from pic_jax.cli.settings import load_file, resolve
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import LINEARS
from pic_jax.errors import ConfigError
from pic_jax.llama_recipes import MESHES, STAGES
from pic_jax.models.decoder import Decoder, init_params
from pic_jax.models.partitioning import AXES
from pic_jax.models.shapes import known_shape
from pic_jax.run import Run, check_fits
from pic_jax.training.sharding import check_mesh, mesh_shape, shardings, single_device_mesh

FOLDER = Path(__file__).parents[1] / 'configs'
FILES = sorted(FOLDER.glob('llama*.py'))
DEVICES = {'v5e-16': 16, 'v5e-256': 256, 'v5p-64': 32, 'v6e-8': 8, '8xH100': 8}


def settings(path, argument=''):
    return resolve(load_file(f'{path}:{argument}' if argument else str(path)), [])


@functools.cache
def abstract(config):
    """The decoder of a configuration, its parameters and those that are trained, as shapes."""
    decoder = Decoder(known_shape(config.base))
    base = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))
    compressor = make_compressor(config.compressor, decoder)
    return decoder, base, jax.eval_shape(compressor.init, jax.random.key(0), base)


def parameters(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_files_that_others_name_are_there():
    assert {path.stem for path in FILES} == {
        'llama2_7b_pic_16x', 'llama2_7b_pic', 'llama2_7b_icae', 'llama2_7b_icformer', 'llama3_2_1b_pic',
        'llama3_1_8b_pic', 'llama2_70b_pic',
    }  # fmt: skip
    assert DEVICES.keys() == MESHES.keys()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize('stage', STAGES)
def test_contexts_and_texts_fit_the_model(path, stage):
    config = settings(path, stage)
    decoder = Decoder(known_shape(config.base))
    run = Run(
        config, decoder, None, None, None, (1,), make_compressor(config.compressor, decoder), single_device_mesh()
    )
    check_fits(run)
    assert (config.dtype, config.remat) == ('bfloat16', 'full')
    pretrained = ('ae',) if config.compressor.method == 'icformer' else ('ae', 'lm')
    assert config.objective.names == (pretrained if stage == 'pretrain' else ('ft',))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize('name', MESHES)
def test_every_mesh_splits_the_model_and_the_batch(path, stage, name):
    config = settings(path, f'{name},{stage}')
    mesh = AbstractMesh(mesh_shape(config.mesh, DEVICES[name]), AXES)
    # Shapes do not depend on stage or mesh: the abstract model is made once per file.
    decoder, base, trainable = abstract(settings(path))
    check_mesh(config, decoder.config, mesh)
    split = jax.tree.leaves(shardings(base, mesh))[0].num_devices
    assert split == DEVICES[name]
    shardings(trainable, mesh)
    per_step = config.train.batch_size // config.train.microbatches
    assert per_step * config.train.microbatches == config.train.batch_size


def test_pic_16x_is_what_its_name_says():
    config = settings(FOLDER / 'llama2_7b_pic_16x.py')
    assert config == settings(FOLDER / 'llama2_7b_pic.py')
    assert (config.base, config.compressor.method) == ('hub:meta-llama/Llama-2-7b-hf', 'pic')
    assert memory_slots(config.compressor, 512) == 32
    assert config.compressor.chunk_local
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.context) == (1, 16, 1, 1)
    with pytest.raises(
        ConfigError, match="'4' is not valid after the name of the file: expected words out of 16, v5e-16"
    ):
        settings(FOLDER / 'llama2_7b_pic_16x.py', '4')


@pytest.mark.parametrize(('ratio', 'k'), [(4, 128), (16, 32), (64, 8)])
def test_ratios(ratio, k):
    for name in 'llama2_7b_pic', 'llama3_2_1b_pic', 'llama3_1_8b_pic', 'llama2_70b_pic', 'llama2_7b_icae':
        assert memory_slots(settings(FOLDER / f'{name}.py', str(ratio)).compressor, 512) == k


def test_pretraining_reads_three_billion_tokens():
    for name in 'llama2_7b_pic', 'llama2_7b_icae', 'llama2_70b_pic':
        config = settings(FOLDER / f'{name}.py', 'v5e-256')
        tokens = config.train.steps * config.train.batch_size * (config.data.context_length + config.data.target_length)
        assert 2.99e9 < tokens <= 3e9
        assert config.data.source == 'arrayrecord:$FINEWEB'


def test_a_slice_larger_than_the_batch_gets_a_larger_batch_and_as_many_examples():
    small, large = (settings(FOLDER / 'llama2_7b_pic.py', f'gsm8k,{name}').train for name in ('v5e-16', 'v5e-256'))
    assert (small.batch_size, large.batch_size) == (32, 256)
    assert small.steps * 32 <= large.steps * 256 < small.steps * 32 + 256


def test_pic_adapts_every_linear_and_icae_queries_and_values():
    """Rank x (in + out) of each adapted matrix and layer, and the memory embeddings and special vectors."""
    D, F, L = 4096, 11008, 32
    _, base, trainable = abstract(settings(FOLDER / 'llama2_7b_pic_16x.py'))
    assert parameters(base) == 6_738_415_616
    assert parameters(trainable['lora']) == L * 64 * (4 * 2 * D + 3 * (D + F)) == 159_907_840
    assert trainable['memory_embeddings'].shape == (4, D)
    _, _, trainable = abstract(settings(FOLDER / 'llama2_7b_icae.py'))
    assert parameters(trainable['lora']) == L * 128 * 2 * 2 * D == 67_108_864
    assert trainable['memory_embeddings'].shape == (128, D)


def test_icformer_has_the_parameters_of_the_paper():
    _, _, trainable = abstract(settings(FOLDER / 'llama2_7b_icformer.py'))
    assert parameters([trainable['icformer'], trainable['memory_embeddings']]) == 607_690_752


def test_methods_share_everything_that_is_not_theirs():
    """The comparison of PIC and ICAE at one ratio: the same data, objective, batch and steps."""
    pic, icae = (settings(FOLDER / f'llama2_7b_{name}.py', '16') for name in ('pic', 'icae'))
    for group in 'base', 'data', 'objective', 'train', 'mesh', 'seed', 'dtype':
        assert getattr(pic, group) == getattr(icae, group)
    assert pic.compressor.lora.targets == LINEARS
    changed = [f.name for f in dataclasses.fields(pic.optimizer)
               if getattr(pic.optimizer, f.name) != getattr(icae.optimizer, f.name)]  # fmt: skip
    assert changed == ['schedule', 'clip_norm']


@pytest.mark.parametrize('word', ['v5e-32', 'sqad', '8'])
def test_a_word_that_means_nothing_is_refused(word):
    with pytest.raises(
        ConfigError, match=rf"'{word}' is not valid after the name of the file.* 16, 4, 64, v5e-16.*gsm8k"
    ):
        settings(FOLDER / 'llama2_7b_pic.py', word)
