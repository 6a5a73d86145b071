"""Reading and refusing Hugging Face folders. Everything is written here, by hand; torch is not needed."""

import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pic_jax.config import RopeConfig
from pic_jax.errors import PicJaxError
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder, init_params

CONFIG = {
    'model_type': 'llama', 'vocab_size': 64, 'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 6, 'max_position_embeddings': 128,
    'rms_norm_eps': 1e-5, 'hidden_act': 'silu', 'attention_bias': True, 'mlp_bias': True, 'bos_token_id': 1,
    'eos_token_id': [2, 5], 'rope_theta': 5e5,
}  # fmt: skip
LAYER = {
    'input_layernorm.weight': (32,), 'post_attention_layernorm.weight': (32,),
    'self_attn.q_proj.weight': (24, 32), 'self_attn.k_proj.weight': (12, 32), 'self_attn.v_proj.weight': (12, 32),
    'self_attn.o_proj.weight': (32, 24), 'self_attn.q_proj.bias': (24,), 'self_attn.k_proj.bias': (12,),
    'self_attn.v_proj.bias': (12,), 'self_attn.o_proj.bias': (32,),
    'mlp.gate_proj.weight': (48, 32), 'mlp.up_proj.weight': (48, 32), 'mlp.down_proj.weight': (32, 48),
    'mlp.gate_proj.bias': (48,), 'mlp.up_proj.bias': (48,), 'mlp.down_proj.bias': (32,),
}  # fmt: skip
SHAPES = {'model.embed_tokens.weight': (64, 32), 'model.norm.weight': (32,), 'lm_head.weight': (64, 32)}
SHAPES |= {f'model.layers.{layer}.{name}': shape for layer in range(2) for name, shape in LAYER.items()}


@pytest.fixture
def folder(tmp_path):
    """A function that writes a model folder: config.json with changes (None drops a key), tensors, shards."""

    def write(changes=None, tensors=None, shards=1, dtype=np.float32):
        values = {key: value for key, value in (CONFIG | (changes or {})).items() if value is not None}
        (tmp_path / 'config.json').write_text(json.dumps(values))
        if tensors is None:
            tensors = _tensors(dtype)
        if shards == 1:
            save_file(tensors, tmp_path / 'model.safetensors')
            return tmp_path
        weight_map = {}
        for shard in range(shards):
            file = f'model-{shard + 1:05}-of-{shards:05}.safetensors'
            part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
            save_file(part, tmp_path / file)
            weight_map |= dict.fromkeys(part, file)
        (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
        return tmp_path

    return write


def _tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def _load(path, **kwargs):
    return hf.load_params(path, hf.read_config(path), **kwargs)


def _refused(path, *words):
    with pytest.raises(PicJaxError) as caught:
        _load(path)
    message = str(caught.value)
    assert '\n' not in message
    for word in (path.name, *words):
        assert word in message
    return message


def test_config_is_read_whole(folder, tiny_config):
    assert hf.read_config(folder()) == tiny_config(
        head_dim=6, attention_bias=True, mlp_bias=True, bos_token_id=1, eos_token_ids=(2, 5),
        rope=RopeConfig(theta=5e5),
    )  # fmt: skip


def test_defaults_are_those_of_transformers(folder, tiny_config):
    left_out = dict.fromkeys(
        ('num_key_value_heads', 'head_dim', 'rms_norm_eps', 'hidden_act', 'attention_bias', 'mlp_bias',
         'bos_token_id', 'eos_token_id', 'rope_theta'),
    )  # fmt: skip
    assert hf.read_config(folder(left_out)) == tiny_config(num_key_value_heads=4, head_dim=8, rms_norm_eps=1e-6)
    assert hf.read_config(folder({'eos_token_id': 2})).eos_token_ids == (2,)
    assert hf.read_config(folder({'tie_word_embeddings': True})).tie_word_embeddings


@pytest.mark.parametrize(
    ('changes', 'positions'),
    [
        ({'model_type': 'mistral', 'sliding_window': 16}, 16),
        ({'model_type': 'mistral', 'sliding_window': 999}, 128),
        ({'model_type': 'mistral', 'sliding_window': None, 'max_position_embeddings': 9999}, 4096),  # as transformers
        ({'model_type': 'qwen2', 'sliding_window': 16}, 128),
        ({'model_type': 'qwen2', 'sliding_window': 16, 'use_sliding_window': True}, 16),
        ({'model_type': 'qwen2', 'use_sliding_window': True, 'max_position_embeddings': 9999}, 4096),  # as transformers
        ({'model_type': 'qwen3', 'use_sliding_window': True, 'max_position_embeddings': 9999}, 4096),
    ],
)
def test_a_sliding_window_bounds_the_positions(folder, changes, positions):
    assert hf.read_config(folder(changes)).max_position_embeddings == positions


def test_what_a_family_leaves_unsaid(folder):
    said = {'attention_bias': True, 'mlp_bias': True}
    shown = {}
    for family in hf.FAMILIES:
        config = hf.read_config(folder(said | {'model_type': family}))
        shown[family] = (config.attention_bias, config.mlp_bias, config.qkv_bias, config.qk_norm, config.model_type)
    assert shown == {
        'llama': (True, True, False, False, 'llama'),
        'mistral': (False, False, False, False, 'mistral'),
        'qwen2': (False, False, True, False, 'qwen2'),
        'qwen3': (True, False, False, True, 'qwen3'),
    }


LLAMA3 = {
    'factor': 8.0, 'low_freq_factor': 2.0, 'high_freq_factor': 5.0, 'original_max_position_embeddings': 32,
}  # fmt: skip


@pytest.mark.parametrize(
    'changes',
    [
        {'rope_theta': 5e5, 'rope_scaling': LLAMA3 | {'type': 'llama3'}},
        {'rope_theta': 5e5, 'rope_scaling': LLAMA3 | {'rope_type': 'llama3'}},
        {'rope_theta': 5e5, 'rope_scaling': LLAMA3 | {'rope_type': 'llama3', 'type': 'llama3'}},
        {'rope_theta': None, 'rope_parameters': LLAMA3 | {'rope_type': 'llama3', 'rope_theta': 5e5}},
    ],
    ids=['type', 'rope_type', 'both', 'rope_parameters'],
)
def test_old_and_new_llama3_rope_keys(folder, changes):
    expected = RopeConfig(
        theta=5e5, type='llama3', factor=8.0, low_freq_factor=2.0, high_freq_factor=5.0,
        original_max_position_embeddings=32,
    )  # fmt: skip
    assert hf.read_config(folder(changes)).rope == expected


@pytest.mark.parametrize(
    'changes',
    [
        {'rope_theta': 7e4},
        {'rope_theta': 7e4, 'rope_scaling': {'type': 'default'}},
        {'rope_theta': None, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 7e4}},
        {'rope_theta': None, 'rope_parameters': {'rope_theta': 7e4}},
    ],
    ids=['bare', 'type', 'rope_parameters', 'rope_parameters without type'],
)
def test_old_and_new_default_rope_keys(folder, changes):
    assert hf.read_config(folder(changes)).rope == RopeConfig(theta=7e4)


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16], ids=['f32', 'f16', 'bf16'])
def test_round_trip_is_bit_equal(folder, shards, dtype):
    path = folder(shards=shards, dtype=dtype)
    config = hf.read_config(path)
    state = hf.to_hf(hf.load_params(path, config), config)
    expected = _tensors(dtype)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert state[name].tobytes() == tensor.tobytes()
    save_file(state, path / 'again.safetensors')
    again = load_file(path / 'again.safetensors')
    assert all(again[name].tobytes() == expected[name].tobytes() for name in expected)


def test_layers_are_stacked_in_order_and_kernels_are_in_out(folder):
    params, tensors = _load(folder()), _tensors()
    for layer in range(2):
        np.testing.assert_array_equal(
            params['layers']['mlp']['down_proj']['kernel'][layer],
            tensors[f'model.layers.{layer}.mlp.down_proj.weight'].T,
        )
    np.testing.assert_array_equal(params['embed_tokens']['embedding'], tensors['model.embed_tokens.weight'])


def test_dtype_converts_and_none_keeps(folder):
    path = folder(dtype=ml_dtypes.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(_load(path))} == {np.dtype(ml_dtypes.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(_load(path, dtype=np.float32))} == {np.dtype(np.float32)}


@pytest.mark.parametrize('tied', [False, True], ids=['untied', 'tied'])
@pytest.mark.parametrize('bias', [False, True], ids=['plain', 'bias'])
def test_tree_is_the_one_the_decoder_makes(folder, tied, bias):
    tensors = {name: value for name, value in _tensors().items() if bias or not name.endswith('.bias')}
    if tied:
        del tensors['lm_head.weight']
    path = folder({'tie_word_embeddings': tied, 'attention_bias': bias, 'mlp_bias': bias}, tensors)
    config = hf.read_config(path)
    made = jax.eval_shape(functools.partial(init_params, Decoder(config)), jax.random.key(0))
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
    assert shapes(hf.load_params(path, config)) == shapes(made)


def test_tied_head_and_old_rope_buffers_on_disk_are_ignored(folder):
    extra = {f'model.layers.{layer}.self_attn.rotary_emb.inv_freq': np.ones(3, np.float32) for layer in range(2)}
    assert 'lm_head' not in _load(folder({'tie_word_embeddings': True}, _tensors() | extra))


# What is refused, and which words the message owes the user.


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'model_type': 'gemma'}, ('model_type', 'gemma', 'llama, mistral, qwen2, qwen3')),
        ({'model_type': 'mistral', 'sliding_window': -1}, ('sliding_window', '-1', 'positive')),
        ({'model_type': None}, ('model_type', 'missing')),
        ({'hidden_act': 'gelu'}, ('hidden_act', 'gelu', 'silu')),
        ({'quantization_config': {'quant_method': 'gptq'}}, ('quantization_config', 'gptq')),
        ({'rope_scaling': {'type': 'linear', 'factor': 2.0}}, ('rope_type', 'linear', 'llama3')),
        ({'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}}, ('rope_type', 'yarn')),
        ({'rope_parameters': {'rope_type': 'dynamic', 'rope_theta': 1e4}}, ('rope_type', 'dynamic')),
        ({'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0}},
         ('high_freq_factor', 'original_max_position_embeddings')),
        *(({key: None}, (key, 'missing')) for key in (
            'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
            'max_position_embeddings')),
    ],
    ids=str,
)  # fmt: skip
def test_unsupported_config_is_refused_by_key(folder, changes, words):
    _refused(folder(changes), 'config.json', *words)


def test_kv_heads_that_do_not_divide_are_refused(folder):
    with pytest.raises(PicJaxError, match=r'num_key_value_heads=3'):
        hf.read_config(folder({'num_key_value_heads': 3}))


@pytest.mark.parametrize('content', [b'{"model_type": "llama"', b'', b'\xff\xfe', b'[1, 2]'])
def test_config_that_is_not_a_json_object_is_refused(folder, content):
    path = folder()
    (path / 'config.json').write_bytes(content)
    _refused(path, 'config.json', 'JSON')


def test_missing_extra_and_misshaped_tensors_are_all_named(folder):
    tensors = _tensors()
    del tensors['model.layers.1.mlp.up_proj.weight'], tensors['model.norm.weight']
    tensors['model.layers.0.self_attn.q_norm.weight'] = np.ones(6, np.float32)
    tensors['model.layers.2.input_layernorm.weight'] = np.ones(32, np.float32)
    tensors['lm_head.weight'] = np.ones((32, 64), np.float32)
    _refused(
        folder(tensors=tensors), 'missing model.layers.1.mlp.up_proj.weight', 'missing model.norm.weight',
        'unexpected model.layers.0.self_attn.q_norm.weight', 'unexpected model.layers.2.input_layernorm.weight',
        'lm_head.weight', '(32, 64)', '(64, 32)',
    )  # fmt: skip


def test_bias_that_the_config_denies_is_refused(folder):
    _refused(folder({'mlp_bias': False}), 'unexpected model.layers.0.mlp.up_proj.bias')


def test_untied_model_without_head_is_refused(folder):
    tensors = _tensors()
    del tensors['lm_head.weight']
    _refused(folder(tensors=tensors), 'missing lm_head.weight')


@pytest.mark.parametrize('cut', [4, 100, -8], ids=['header length', 'header', 'data'])
def test_truncated_safetensors_is_refused(folder, cut):
    path = folder()
    file = path / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:cut])
    _refused(path, 'model.safetensors')


def test_other_bytes_than_safetensors_are_refused(folder):
    path = folder()
    (path / 'model.safetensors').write_bytes(b'not a tensor file at all')
    _refused(path, 'model.safetensors')


@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_missing_file_is_refused(folder, file):
    path = folder()
    (path / file).unlink()
    _refused(path, file)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(PicJaxError, match='nowhere'):
        hf.read_config(tmp_path / 'nowhere')


def test_missing_shard_is_refused(folder):
    path = folder(shards=2)
    (path / 'model-00002-of-00002.safetensors').unlink()
    _refused(path, 'model-00002-of-00002.safetensors')


def test_shard_that_lacks_what_the_index_promises_is_refused(folder):
    path = folder(shards=2)
    index = path / 'model.safetensors.index.json'
    values = json.loads(index.read_text())
    values['weight_map']['model.norm.weight'] = next(
        file for file in values['weight_map'].values() if file != values['weight_map']['model.norm.weight']
    )
    index.write_text(json.dumps(values))
    _refused(path, 'model.norm.weight')


@pytest.mark.parametrize(
    'shard', ['../model.safetensors', '/etc/model.safetensors', 'a/b.safetensors', '..\\b.safetensors', 'model.bin',
              'model.safetensors\n', 7, None],
)  # fmt: skip
def test_shard_names_that_leave_the_folder_are_refused(folder, shard):
    path = folder(shards=2)
    index = path / 'model.safetensors.index.json'
    values = json.loads(index.read_text())
    # The file exists, so only the name can be what is refused.
    save_file(_tensors(), path.parent / 'model.safetensors')
    values['weight_map']['model.norm.weight'] = shard
    index.write_text(json.dumps(values))
    _refused(path, 'model.norm.weight', repr(shard))


@pytest.mark.parametrize('text', ['{', '[]', '{}', '{"weight_map": []}'])
def test_bad_index_is_refused(folder, text):
    path = folder(shards=2)
    (path / 'model.safetensors.index.json').write_text(text)
    _refused(path, 'model.safetensors.index.json')
