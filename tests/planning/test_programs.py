"""The planned programs are those that run: same shapes, same lowered text, with no weight read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.cli.settings import resolve
from pic_jax.config import DataConfig, default_config, to_mapping
from pic_jax.data.examples import packed
from pic_jax.data.loader import Batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError
from pic_jax.hardware import CHIPS
from pic_jax.models.shapes import SHAPES
from pic_jax.planning.measure import measure
from pic_jax.planning.programs import NAMES, abstract_batch, abstract_run, decoder_shape, programs
from pic_jax.planning.topology import Topology
from pic_jax.run import open_run
from pic_jax.training.objectives import compressor_loss
from pic_jax.training.sharding import place_batch, shardings, single_device_mesh
from pic_jax.training.step import init_state, make_train_step


@pytest.fixture(scope='module')
def config(tiny_settings):
    values = default_config()
    values.update_from_flattened_dict(tiny_settings | {'objective.ae': 1.0})
    return resolve(values.to_dict(), [])


@pytest.fixture(scope='module')
def planned(config):
    return abstract_run(config, decoder_shape(config.base), single_device_mesh())


@pytest.fixture(scope='module')
def batch(config):
    run = open_run(config)
    names = config.objective.names
    records, _ = prepare(config.data, names, run.tokenizer, run.template, run.eos_id, run.vocab_size, ('train',))
    training = packed(records['train'], config.data, run.eos_id)
    return Batches(training, config.data, names, run.eos_id, config.train.batch_size, config.seed)[0]


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype).name), tree)


def test_the_abstract_batch_is_what_the_loader_makes(config, planned, batch):
    found = abstract_batch(config.data, config.objective.names, config.train.batch_size, planned.mesh)
    assert shapes(found) == shapes(jax.tree.map(np.asarray, batch))


def test_the_abstract_target_is_the_one_that_is_loaded(config, planned):
    assert shapes(planned.base) == shapes(open_run(config).base)


def test_the_planned_step_is_the_step_that_runs(config, planned, batch):
    run = open_run(config, planned.mesh)
    state = init_state(run.init_trainable(), config.optimizer, config.train.steps)
    places = shardings(state, run.mesh)
    step = make_train_step(compressor_loss(run), config.optimizer, config.train, places)
    (program,) = programs(planned, ('train',))
    with jax.set_mesh(run.mesh):
        state = jax.device_put(state, places)
        real = step.lower(state, run.base, place_batch(batch, run.mesh)).as_text()
        assert program.function.lower(*program.arguments).as_text() == real
    assert 'tf.aliasing_output' in real or 'jax.buffer_donor' in real  # donated alike


def test_every_program_is_measured(planned):
    topology = Topology(CHIPS['v5e'], tuple(planned.mesh.devices.flat))
    for program in programs(planned):
        found = measure(program, planned.mesh, topology)
        assert found.fits
        assert found.program.name in NAMES
        assert min(found.flops, found.hbm_bytes, found.memory.arguments, found.needed) > 0
        assert found.collectives == []  # of one device
        assert found.roofline.seconds > 0


def test_the_target_comes_from_the_table_or_from_its_folder(tiny_target):
    assert decoder_shape('hub:meta-llama/Llama-2-7b-hf') == SHAPES['meta-llama/Llama-2-7b-hf']
    assert decoder_shape(str(tiny_target)).vocab_size == 600
    with pytest.raises(ConfigError, match='base'):
        decoder_shape('')


def test_a_prefix_beyond_the_vocabulary_is_refused(config):
    shape = decoder_shape(config.base)
    with pytest.raises(ConfigError, match=r'decoder_prefix=\(0, 600\) is not valid: expected ids below 600'):
        abstract_run(dataclasses.replace(config, decoder_prefix=(0, 600)), shape, single_device_mesh())


def test_a_run_that_does_not_fit_its_model_is_refused(config):
    long = to_mapping(config) | {'data': to_mapping(DataConfig(context_length=4096))}
    with pytest.raises(ConfigError):
        abstract_run(resolve(long, []), decoder_shape(config.base), single_device_mesh())
