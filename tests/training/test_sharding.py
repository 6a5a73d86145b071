"""Rules that place parameters, optimizer state and batches on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pic_jax.compressors.registry import make_compressor
from pic_jax.config import (
    CompressorConfig,
    DecoderConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from pic_jax.errors import ConfigError
from pic_jax.models.decoder import Decoder, init_params
from pic_jax.models.partitioning import AXES, RULES, constrain, spec
from pic_jax.training import sharding
from pic_jax.training.identity import fingerprint, identity
from pic_jax.training.step import init_state

SHAPE = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, attention_bias=True,
)  # fmt: skip


def mesh_of(*sizes):
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4)


def specs(tree, mesh):
    """'path' -> partition."""
    leaves = jax.tree_util.tree_leaves_with_path(sharding.shardings(tree, mesh))
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.spec for path, leaf in leaves}


@pytest.fixture(scope='module')
def base():
    return jax.eval_shape(lambda: init_params(Decoder(SHAPE), jax.random.key(0)))


def test_parameters_are_split_by_their_names(base):
    found = specs(base, mesh_of(1, 2, 2, 1))
    wanted = {
        'embed_tokens/embedding': ('tensor', 'fsdp'),
        'layers/self_attn/q_proj/kernel': (None, 'fsdp', 'tensor'),
        'layers/self_attn/k_proj/bias': (None, 'tensor'),
        'layers/self_attn/o_proj/kernel': (None, 'tensor', 'fsdp'),
        'layers/mlp/down_proj/kernel': (None, 'tensor', 'fsdp'),
        'layers/input_layernorm/weight': (None, None),
        'norm/weight': (None,),
        'lm_head/kernel': ('fsdp', 'tensor'),
    }
    assert {name: found[name] for name in wanted} == {name: PartitionSpec(*parts) for name, parts in wanted.items()}


@pytest.mark.parametrize('method', ['pic', 'icae', 'kv500x', 'mean_pool', 'icformer', 'constant_memory'])
@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_optimizer_state_lies_where_its_parameters_lie(base, method, optimizer):
    """Of every method and optimizer; no leaf is without a rule."""
    projector = 'none' if method == 'kv500x' else 'mlp'
    config = CompressorConfig.preset(method, ratio=4, context_length=16, projector=projector,
                                     chunk_size=8 if method == 'pic' else None)  # fmt: skip
    compressor = make_compressor(config, Decoder(SHAPE))
    state = jax.eval_shape(
        lambda base: init_state(compressor.init(jax.random.key(0), base), OptimizerConfig(name=optimizer), 3), base
    )
    found = specs(state, mesh_of(1, 2, 2, 1))
    trained = {path.removeprefix('trainable/'): place for path, place in found.items() if path.startswith('trainable/')}
    moments = {path: place for path, place in found.items() if 'mu/' in path}
    assert len(moments) == len(trained)
    assert all(place == trained[path.rpartition('mu/')[2]] for path, place in moments.items())
    adapter = 'trainable/lora/layers/self_attn/o_proj'
    if f'{adapter}/lora_A' in found:
        assert found[f'{adapter}/lora_A'] == PartitionSpec(None, ('fsdp', 'tensor'), None)
        assert found[f'{adapter}/lora_B'] == PartitionSpec(None, None, ('fsdp', 'tensor'))


def test_every_device_holds_its_share_of_a_large_state():
    """Llama-2-7B with rank 64 on all linear layers: vectors are whole everywhere, and are next to nothing."""
    shape = DecoderConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128, max_position_embeddings=4096,
    )  # fmt: skip
    every = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    config = CompressorConfig.preset('pic', ratio=16, context_length=512, lora=LoraConfig(64, 128.0, every))
    base = jax.eval_shape(lambda: init_params(Decoder(shape), jax.random.key(0)))
    compressor = make_compressor(config, Decoder(shape))
    state = jax.eval_shape(
        lambda base: init_state(compressor.init(jax.random.key(0), base), OptimizerConfig(), 3), base
    )
    for tree in base, state:
        for sizes in (1, 16, 1, 1), (1, 4, 4, 1), (1, 64, 1, 1):
            places = sharding.shardings(tree, mesh_of(*sizes))
            held = jax.tree.map(lambda leaf, place: np.prod(place.shard_shape(leaf.shape)), tree, places)
            whole = sum(leaf.size for leaf in jax.tree.leaves(tree))
            share = sum(jax.tree.leaves(held)) / whole
            assert 1 <= share * np.prod(sizes) < 1.02


def test_what_has_no_rule_collides_or_does_not_divide_is_refused_by_name(base):
    with pytest.raises(ConfigError, match='parameter layers/gate/kernel has no sharding rule'):
        sharding.shardings({'layers': {'gate': {'kernel': jnp.zeros((2, 2))}}}, mesh_of(1, 1, 1, 1))
    with pytest.raises(ConfigError, match=r'dimension colour.*has no sharding rule'):
        spec(('embed', 'colour'))
    with pytest.raises(ConfigError, match='mesh axis fsdp would split both batch and embed'):
        spec(('batch', 'embed'))
    with pytest.raises(
        ConfigError, match=r'mesh\.tensor=5 does not divide dimension vocab=64 of embed_tokens/embedding'
    ):
        sharding.shardings(base, mesh_of(1, 1, 5, 1))


@pytest.mark.parametrize(
    ('config', 'count', 'shape'),
    [
        (MeshConfig(), 8, (8, 1, 1, 1)),
        (MeshConfig(1, -1, 2, 1), 8, (1, 4, 2, 1)),
        (MeshConfig(2, 2, 1, -1), 4, (2, 2, 1, 1)),
    ],
)
def test_minus_one_is_the_rest(config, count, shape):
    assert sharding.mesh_shape(config, count) == shape


@pytest.mark.parametrize('config', [MeshConfig(-1, 3), MeshConfig(2, 2, 1, 1), MeshConfig(16, 1, 1, 1)])
def test_a_mesh_of_another_size_is_refused(config):
    with pytest.raises(ConfigError, match='valid for 8 devices: expected sizes that multiply to 8'):
        sharding.mesh_shape(config, 8)


@pytest.mark.parametrize(('sizes', 'key'), [((0, 1, 1, 1), 'mesh.data=0'), ((-1, -1, 1, 1), 'mesh.fsdp=-1')])
def test_impossible_sizes_are_refused(sizes, key):
    with pytest.raises(ConfigError, match=key):
        MeshConfig(*sizes)


@pytest.mark.parametrize(
    ('sizes', 'train', 'compressor', 'message'),
    [
        ((1, 1, 4, 1), {}, {}, 'mesh.tensor=4 is not valid: expected a divisor of num_key_value_heads=2'),
        ((2, 4, 1, 1), {'batch_size': 8, 'microbatches': 2}, {}, 'a multiple of .* = 8 rows in each'),
        ((1, 1, 1, 2), {}, {'method': 'icae'}, 'mesh.context=2 is not valid: expected 1 unless'),
        ((1, 1, 1, 2), {}, {'context_sees': 'chunk+memory'}, 'mesh.context=2 is not valid'),
    ],
)
def test_a_mesh_that_a_run_does_not_fit_is_refused(sizes, train, compressor, message):
    compressor = CompressorConfig.preset(compressor.pop('method', 'pic'), **compressor)
    config = RunConfig(base='none', compressor=compressor, train=TrainConfig(**train))
    with pytest.raises(ConfigError, match=message):
        sharding.check_mesh(config, SHAPE, mesh_of(*sizes))


@pytest.mark.parametrize('compressor', [{}, {'method': 'icae', 'window': 64}])
def test_independent_parts_of_a_context_may_be_split(compressor):
    compressor = CompressorConfig.preset(compressor.pop('method', 'pic'), **compressor)
    config = RunConfig(base='none', compressor=compressor, train=TrainConfig(batch_size=8))
    sharding.check_mesh(config, SHAPE, mesh_of(2, 1, 2, 2))


def test_a_batch_goes_onto_the_mesh_and_back():
    mesh = sharding.single_device_mesh()
    batch = {'x': np.arange(6).reshape(3, 2), 'deep': {'y': np.array([True, False, True])}}
    placed = sharding.place_batch(batch, mesh)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert placed['x'].sharding.spec == PartitionSpec(RULES['batch'])
    assert sharding.rows_of_process(mesh, 3) == range(3)


def test_without_a_mesh_activations_are_left_alone():
    x = jnp.ones((2, 3))
    assert constrain(x, 'batch', 'length') is x


def test_an_identity_tells_values_names_dtypes_and_configurations_apart():
    params = {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones(3, jnp.bfloat16)}
    same = {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones(3, jnp.bfloat16)}
    others = [
        params | {'a': params['a'].at[1, 2].add(1e-6)},
        params | {'a': params['a'][:, ::-1]},
        params | {'a': params['a'].T.reshape(2, 3)},
        params | {'b': jnp.ones(3, jnp.float16)},
        {'c': params['a'], 'b': params['b']},
    ]
    found = [identity(tree, SHAPE) for tree in (params, same, *others)]
    found.append(identity(params, dataclasses.replace(SHAPE, rms_norm_eps=2 * SHAPE.rms_norm_eps)))
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1
    assert len(found[0]) == 64


def test_a_fingerprint_is_the_sum_of_mixed_words():
    """The same in plain Python integers."""
    x, mask = np.array([[1.5, -2.0], [0.0, 3.25]], np.float32), 2**32 - 1
    sums = []
    for seed in (0x9E3779B9, 0x85EBCA6B):
        total = 0
        for place, bits in enumerate(x.view(np.uint32).ravel().tolist()):
            h = bits ^ ((place * seed + (seed >> 7)) & mask)
            h = ((h ^ (h >> 16)) * 0x85EBCA6B) & mask
            h = ((h ^ (h >> 13)) * 0xC2B2AE35) & mask
            total += h ^ (h >> 16)
        sums.append(total & mask)
    assert fingerprint(jnp.asarray(x)).tolist() == sums
