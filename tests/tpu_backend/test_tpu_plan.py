"""Compiled by the real TPU compiler for slices that are not there. Needs libtpu, and no TPU."""

import dataclasses
import importlib.util

import jax
import pytest
from crossing import crosses

from pic_jax.config import CompressorConfig, DataConfig, DecoderConfig, MeshConfig, RunConfig, TrainConfig
from pic_jax.hardware import CHIPS
from pic_jax.planning import topology
from pic_jax.planning.measure import measure
from pic_jax.planning.programs import abstract_run, programs
from pic_jax.planning.report import verdict
from pic_jax.training.sharding import make_mesh

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu: pip install "pic_jax[aot]"'),
]
LAYERS, MIB = 3, 2**20
SHAPE = DecoderConfig(
    vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=LAYERS, num_attention_heads=4,
    num_key_value_heads=2, head_dim=64, max_position_embeddings=512, bos_token_id=0, eos_token_ids=(1,),
)  # fmt: skip
CONFIG = RunConfig(
    dtype='bfloat16', remat='full',
    compressor=CompressorConfig.preset('pic', ratio=8, chunk_size=32, context_length=128),
    data=DataConfig(context_length=128, target_length=32), train=TrainConfig(batch_size=8),
    mesh=MeshConfig(data=1, fsdp=-1, tensor=1),
)  # fmt: skip


def planned(name: str, program: str, config: RunConfig = CONFIG, shape: DecoderConfig = SHAPE):
    found = topology.find(name)
    mesh = make_mesh(config.mesh, found.devices)
    (made,) = programs(abstract_run(config, shape, mesh), (program,))
    return measure(made, mesh, found), mesh


@pytest.mark.parametrize('name', ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'])
def test_a_training_step_compiles_and_its_memory_is_as_expected(name):
    found, _ = planned(name, 'train')
    assert found.fits, verdict(found)
    # A quarter of: the target (2.1 M parameters in bfloat16), and what is trained with two moments in float32.
    assert 1.0 * MIB < found.memory.arguments < 4 * MIB
    assert found.memory.arguments < found.needed < 64 * MIB
    # At the least the target's quarter is read; small arguments are larger than what is read of them, being padded.
    assert found.hbm_bytes > 2.1e6 * 2 / 4
    assert found.roofline.seconds > 0
    # Loops have counts, and the weights of every layer are gathered inside of them.
    assert all(each.count is not None for each in found.collectives)
    gathered = [each for each in found.collectives if each.kind == 'all-gather' and each.count % LAYERS == 0]
    weights = 2 * SHAPE.hidden_size * SHAPE.intermediate_size
    assert weights in {each.bytes for each in gathered}


@pytest.mark.parametrize('attention', ['structured', 'splash'])
def test_a_training_step_compiles_with_every_attention_backend(attention):
    recurrent = dict(context_sees='chunk+memory', memory_sees_memory='previous')
    config = dataclasses.replace(
        CONFIG,
        attention=attention,
        data=DataConfig(context_length=256, target_length=256),
        compressor=CompressorConfig.preset('pic', ratio=8, chunk_size=128, context_length=256, **recurrent),
    )
    with jax.default_matmul_precision('default'):  # the kernel has no `highest` for bfloat16
        found, _ = planned('v5e:2x2', 'train', config)
    assert found.fits, verdict(found)
    assert all(each.count is not None for each in found.collectives)


def test_compression_and_generation_compile():
    for program in ('compress', 'decode'):
        found, _ = planned('v5e:2x2', program)
        assert found.fits, verdict(found)
        assert all(each.count is not None for each in found.collectives)


def test_chunks_on_different_devices_do_not_talk_to_each_other():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data=2, fsdp=1, tensor=1, context=2))
    found, mesh = planned('v5e:2x2', 'compress', config)
    assert not [each for each in found.collectives if crosses(each, mesh, 'context')]


def test_a_batch_that_is_too_large_is_refused_with_what_is_missing():
    # The logits of the text alone are 2^17 rows of 1,024 float32 on each of four devices, 32 tokens each: 16 GiB.
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=2**19))
    found, _ = planned('v5e:2x2', 'train', config)
    assert not found.fits
    assert found.needed > found.hbm == CHIPS['v5e'].hbm_bytes
    assert 'GiB more than its 15.75 GiB' in verdict(found)


@pytest.mark.parametrize(('name', 'kind'), [('v5p:2x2x1', 'v5p'), ('v6e:2x2', 'v6e'), ('v4:2x2x1', 'v4')])
def test_the_table_has_the_memory_that_the_compiler_grants(name, kind):
    config = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=2**23))
    found, _ = planned(name, 'compress', config)
    assert not found.fits
    assert found.hbm == CHIPS[kind].hbm_bytes
