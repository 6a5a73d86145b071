"""Settings: presets, the edge from mappings, and what every refusal says."""

import dataclasses
import json

import pytest

from pic_jax.config import (
    PRESETS,
    CompressorConfig,
    DataConfig,
    DecoderConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainConfig,
    RopeConfig,
    RunConfig,
    TrainConfig,
    default_config,
    from_mapping,
    to_mapping,
)
from pic_jax.errors import ConfigError


def _refusal(mapping, cls=RunConfig):
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, mapping)
    message = str(caught.value)
    assert '\n' not in message
    return message


def _nested(path, value):
    for key in reversed(path.split('.')):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    ('path', 'nearest'),
    [
        ('compresor', 'compressor'),
        ('sead', 'seed'),
        ('compressor.ration', 'compressor.ratio'),
        ('compressor.chunksize', 'compressor.chunk_size'),
        ('compressor.lora.rnk', 'compressor.lora.rank'),
        ('data.context_lenght', 'data.context_length'),
        ('train.step', 'train.steps'),
        ('optimizer.lerning_rate', 'optimizer.learning_rate'),
        ('objective.destill', 'objective.distill'),
    ],
)
def test_an_unknown_key_names_the_nearest(path, nearest):
    message = _refusal(_nested(path, 1))
    assert f'unknown config key {path}' in message
    assert f'did you mean {nearest}?' in message


def test_an_unknown_key_like_no_other_names_them_all():
    message = _refusal({'train': {'zzzzzz': 1}})
    assert 'train.zzzzzz' in message
    assert all(field.name in message for field in dataclasses.fields(TrainConfig))


@pytest.mark.parametrize(
    ('path', 'value', 'expected'),
    [
        ('seed', '1', 'int'),
        ('seed', 1.5, 'int'),
        ('seed', True, 'int'),
        ('seed', None, 'int'),
        ('remat', 1, 'str'),
        ('base', 3, 'str'),
        ('decoder_prefix', 1, 'list of int'),
        ('decoder_prefix', [1, 'a'], 'int'),
        ('compressor', 'pic', 'group of settings'),
        ('compressor.ratio', '8', 'int'),
        ('compressor.ratio', 8.0, 'int'),
        ('compressor.chunk_size', 'none', 'int'),
        ('compressor.window', False, 'int'),
        ('compressor.lora.targets', 'q_proj', 'list of str'),
        ('compressor.lora.alpha', '2', 'float'),
        ('optimizer.learning_rate', 'fast', 'float'),
        ('optimizer.learning_rate', True, 'float'),
        ('data.buckets', 64, 'list of int'),
        ('train.steps', None, 'int'),
    ],
)
def test_a_wrong_type_names_key_value_and_type(path, value, expected):
    message = _refusal(_nested(path, value))
    assert path in message
    assert repr(value[-1] if isinstance(value, list) else value) in message
    assert expected in message


def test_an_integer_is_a_float_where_one_is_wanted():
    rate = from_mapping(RunConfig, {'optimizer': {'learning_rate': 1}}).optimizer.learning_rate
    assert isinstance(rate, float)


PIC, ICAE = {'method': 'pic'}, {'method': 'icae'}


@pytest.mark.parametrize(
    ('ratios', 'valid'),
    [
        ([2, 4], 'none, or ascending numbers that begin with compressor.ratio=4'),
        ([8, 16], 'begin with compressor.ratio=4'),
        ([4, 16, 8], 'ascending'),
        ([4, 8, 8], 'ascending'),
        ([4, 12], 'divisors of compressor.chunk_size=64'),
        ([4, 128], 'divisors of compressor.chunk_size=64'),
    ],
)
def test_ratios_ascend_from_the_ratio_and_divide_the_chunk(ratios, valid):
    message = _refusal({'compressor': PIC | {'ratio': 4, 'ratios': ratios}})
    assert f'compressor.ratios={tuple(ratios)} is not valid: expected ' in message
    assert valid in message
    with pytest.raises(ConfigError, match=r'compressor\.ratios=8 is not valid: expected a list of int'):
        from_mapping(RunConfig, {'compressor': {'ratios': 8}})


def test_ratios_may_be_any_where_there_are_no_chunks():
    config = from_mapping(RunConfig, {'compressor': ICAE | {'ratio': 4, 'ratios': [4, 7, 100]}})
    assert config.compressor.ratios == (4, 7, 100)
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(config)))) == config
    assert from_mapping(RunConfig, {}).compressor.ratios == ()


@pytest.mark.parametrize(('window', 'split', 'fits'), [(64, 'fixed', True), (60, 'fixed', False), (64, 'even', False)])
def test_the_words_objective_needs_windows_that_start_with_a_slot(window, split, fits):
    compressor = {'method': 'icae', 'ratio': 8, 'window': window, 'window_split': split}
    settings = {'compressor': compressor, 'objective': {'words': 1.0}}
    if fits:
        assert from_mapping(RunConfig, settings).compressor.window == window
    else:
        assert f'compressor.window={window} is not valid: expected a multiple of compressor.ratio=8' in _refusal(
            settings
        )


@pytest.mark.parametrize(
    ('path', 'value', 'around', 'valid'),
    [
        ('dtype', 'float16', {}, 'float32, bfloat16'),
        ('prompt_template', 'alpaca', {}, 'plain, llama2-chat, chat'),
        ('compressor.method', 'gist', {}, 'icae, epl, pic'),
        ('compressor.ratio', 0, {}, 'positive'),
        ('compressor.ratio', -8, ICAE, 'positive'),
        ('compressor.context_length', 0, {}, 'positive'),
        ('compressor.context_sees', 'all', PIC, 'causal, chunk, chunk+memory'),
        ('compressor.memory_sees_memory', 'all', PIC, 'own, previous'),
        ('compressor.memory_embeddings', 'shared', PIC, 'per_chunk, per_window'),
        ('compressor.positions', 'middle', PIC, 'end, interleaved, spread'),
        ('compressor.position_origin', 'text', PIC, 'window, chunk'),
        ('compressor.window_split', 'odd', PIC, 'fixed, even'),
        ('compressor.decoder_positions', 'end', PIC, 'sequential, spread'),
        ('compressor.projector', 'conv', PIC, 'none, linear, mlp'),
        ('compressor.window', 0, PIC, 'positive'),
        ('compressor.chunk_size', 12, PIC | {'ratio': 8}, 'multiple of compressor.ratio=8'),
        ('compressor.chunk_size', 4, PIC | {'ratio': 8}, 'multiple of compressor.ratio=8'),
        ('compressor.chunk_size', 0, PIC, 'multiple of compressor.ratio=8'),
        ('compressor.chunk_size', 64, ICAE, 'icae sees the whole window'),
        ('compressor.chunk_size', 64, {'method': 'epl'}, 'epl sees the whole window'),
        ('compressor.positions', 'interleaved', ICAE, 'end or spread'),
        ('compressor.position_origin', 'chunk', PIC | {'context_sees': 'causal'}, 'context_sees=chunk'),
        ('compressor.position_origin', 'chunk', PIC | {'context_sees': 'chunk+memory'}, 'context_sees=chunk'),
        ('compressor.position_origin', 'chunk', PIC | {'memory_sees_memory': 'previous'}, 'memory_sees_memory=own'),
        ('compressor.decoder_positions', 'spread', ICAE, 'sequential where compressor.positions=end'),
        ('compressor.lora.rank', -1, {}, '0 (no adapter)'),
        ('compressor.lora.targets', ['qkv'], {}, 'q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj'),
        ('data.context_length', 0, {}, 'positive'),
        ('data.target_length', 0, {}, 'positive'),
        ('data.min_context', 0, {}, '1 to data.context_length=192'),
        ('data.min_context', 193, {}, '1 to data.context_length=192'),
        ('data.buckets', [192, 64], {}, 'ascending'),
        ('data.buckets', [64, 128], {}, 'ending in data.context_length=192'),
        ('objective.ae', -1.0, {}, 'at least 0'),
        ('objective.lm', float('nan'), {}, 'at least 0'),
        ('objective.distill', 1.0, {'lm': 0.0, 'ae': 1.0}, 'lm or ft'),
        ('objective.lm', 0.0, {}, 'positive weight for one of ae, lm, ft, words'),
        ('data.questions_per_example', 0, {}, 'positive'),
        ('optimizer.schedule', 'linear', {}, 'constant, cosine'),
        ('optimizer.learning_rate', 0.0, {}, 'positive'),
        ('optimizer.clip_norm', 0.0, {}, 'positive'),
        ('train.steps', 0, {}, 'positive'),
        ('train.keep_checkpoints', 0, {}, 'positive'),
        ('train.microbatches', 3, {'batch_size': 16}, 'divisor of train.batch_size=16'),
    ],
)
def test_a_refusal_names_key_value_and_what_is_valid(path, value, around, valid):
    group, _, key = path.rpartition('.')
    message = _refusal(_nested(group, around | {key: value}) if group and '.' not in group else _nested(path, value))
    # No weight at all is a fact about the group, and its value is the list of objectives with one.
    shown = '()' if 'one of ae' in valid else repr(value[0] if path.endswith('targets') else value)
    shown = repr(tuple(value)) if path == 'data.buckets' else shown
    assert (group if 'one of ae' in valid else path) in message
    assert shown in message
    assert valid in message


@pytest.mark.parametrize(
    ('path', 'value', 'around', 'valid'),
    [
        ('corpus.facts_per_context', 4, {}, 'at least 5'),
        ('corpus.words', 0, {}, 'a positive number'),
        ('corpus.questions', 0, {}, 'a positive number'),
        ('corpus.word_lists', 1.5, {}, 'a share from 0 to 1'),
        ('rows.documents', -1, {}, 'at least 0'),
        ('rows', 0, {'documents': 0}, 'rows of at least one of documents, repeats, mixtures, notes, copies'),
        ('rows.copy_period', 65, {'copies': 1}, '2 to half of rows.copy_length=128'),
        ('rows.repeat', float('inf'), {'repeats': 1}, 'a finite weight of at least 0'),
        ('num_attention_heads', 3, {}, 'a divisor of hidden_size=128'),
        ('seed', -1, {}, '0 to 4294967295'),
        ('intermediate_size', -1, {}, 'a positive number'),
        ('hidden_size', 0, {}, 'a positive number'),
        ('train.microbatches', 2, {'batch_size': 2}, '1 in pretraining'),
        ('train.batch_size', 2, {}, '1 in pretraining'),
        ('train.eval_examples', 8, {}, '64 in pretraining'),
        ('rows.mixture_ratios', (), {'notes': 1}, 'at least one positive number'),
        ('rows.mixture_ratios', (4, 0), {'notes': 1}, 'at least one positive number'),
        ('rows.mixture_slots', 0, {'notes': 1}, 'a positive number'),
        ('rows.row_length', -5, {'documents': 1}, 'a positive number'),
        ('rows.text_length', 0, {'notes': 1}, 'a positive number'),
        ('rows.text_length', 2049, {'notes': 1}, 'at most max_position_embeddings=2048'),
    ],
)
def test_a_refusal_in_pretraining_names_key_value_and_what_is_valid(path, value, around, valid):
    group, _, key = path.rpartition('.')
    settings = around | {key: value} if group else value
    if path == 'rows':
        group, settings = 'rows', around
    assert f'{path}={value!r} is not valid: expected {valid}' in _refusal(
        {group: settings} if group else {key: settings}, PretrainConfig
    )


@pytest.mark.parametrize(
    ('overrides', 'key'),
    [
        (dict(num_key_value_heads=3), 'num_key_value_heads=3'),
        (dict(num_key_value_heads=0), 'num_key_value_heads=0'),
        (dict(head_dim=7), 'head_dim=7'),
        (dict(rope=RopeConfig(type='yarn')), "rope.type='yarn'"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(tiny_config, overrides, key):
    with pytest.raises(ConfigError, match=key):
        tiny_config(**overrides)


@pytest.mark.parametrize('config', [RopeConfig(), LoraConfig(), DataConfig(), ObjectiveConfig(), OptimizerConfig()])
def test_configs_are_frozen_and_hashable(config):
    assert hash(config) == hash(dataclasses.replace(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)


def test_presets_differ_only_where_the_design_says():
    icae, epl, pic = (CompressorConfig.preset(name) for name in ('icae', 'epl', 'pic'))
    assert set(PRESETS) == {'icae', 'epl', 'pic', 'kv500x', 'icformer', 'mean_pool', 'constant_memory'}
    for name, like in ('constant_memory', icae), ('kv500x', icae), ('icformer', icae), ('mean_pool', epl):
        assert dataclasses.replace(CompressorConfig.preset(name), method=like.method) == like
    assert dataclasses.replace(epl, method='icae', positions='end') == icae
    assert (icae.chunk_size, icae.context_sees, icae.positions, icae.memory_embeddings) == (
        None, 'causal', 'end', 'per_window',
    )  # fmt: skip
    assert pic.chunk_local
    assert not icae.chunk_local
    assert {c.ratio for c in (icae, epl, pic)} == {8}


@pytest.mark.parametrize(
    ('context_sees', 'memory_sees_memory', 'expected'),
    [
        ('chunk', 'own', True),
        ('chunk', 'previous', False),
        ('chunk+memory', 'own', False),
        ('chunk+memory', 'previous', False),
        ('causal', 'own', False),
        ('causal', 'previous', False),
    ],
)
def test_chunk_local(context_sees, memory_sees_memory, expected):
    config = CompressorConfig.preset('pic', context_sees=context_sees, memory_sees_memory=memory_sees_memory)
    assert config.chunk_local is expected


def test_an_option_of_none_keeps_the_value_of_its_preset():
    assert CompressorConfig.preset('pic', chunk_size=None, ratio=None) == CompressorConfig.preset('pic')
    for method in PRESETS:
        options = dict.fromkeys((*PRESETS[method], 'window', 'ratio', 'context_length'))
        config = from_mapping(RunConfig, {'compressor': {'method': method} | options}).compressor
        assert config == CompressorConfig.preset(method)
    assert CompressorConfig.preset('epl', positions='end').positions == 'end'


@pytest.mark.parametrize(
    'config',
    [
        RunConfig(),
        RunConfig(
            base='$HOME/x', seed=7, dtype='bfloat16', remat='dots', attention='structured', decoder_prefix=(1, 2),
            prompt_template='chat',
        ),
        RunConfig(
            compressor=CompressorConfig.preset(
                'pic', chunk_size=16, ratio=4, context_sees='chunk+memory', memory_sees_memory='previous',
                positions='interleaved', window=64, projector='mlp', lora=LoraConfig(0, 1.0, ('up_proj',)),
            ),
            data=DataConfig(context_length=64, min_context=8, buckets=(16, 64)),
            objective=ObjectiveConfig(ae=0.5, distill=1.0),
            train=TrainConfig(steps=1, batch_size=6, microbatches=3),
        ),
        RunConfig(compressor=CompressorConfig.preset('icae', window=32, window_split='even')),
        RunConfig(compressor=CompressorConfig.preset('epl', decoder_positions='spread')),
    ],
    ids=['default', 'run', 'groups', 'icae', 'epl'],
)  # fmt: skip
def test_json_round_trip(config):
    again = from_mapping(RunConfig, json.loads(json.dumps(to_mapping(config))))
    assert again == config
    assert hash(again) == hash(config)


def test_decoder_config_round_trip(tiny_config):
    config = tiny_config(rope=RopeConfig(type='llama3', factor=8.0), bos_token_id=1, eos_token_ids=(2, 3))
    assert from_mapping(DecoderConfig, json.loads(json.dumps(to_mapping(config)))) == config
    assert 'vocab_size' in _refusal({'hidden_size': 32}, DecoderConfig)


def test_default_config_resolves_to_the_defaults():
    values = default_config()
    assert from_mapping(RunConfig, values.to_dict()) == RunConfig()
    assert set(values) == {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize('method', PRESETS)
def test_default_config_with_another_method_takes_its_preset(method):
    values = default_config()
    values.compressor.method = method
    assert from_mapping(RunConfig, values.to_dict()).compressor == CompressorConfig.preset(method)


def test_default_config_takes_overrides_and_refuses_wrong_types():
    values = default_config()
    values.compressor.chunk_size = 32
    values.compressor.window = 128
    values.compressor.context_sees = 'chunk+memory'
    values.decoder_prefix = (1,)
    run = from_mapping(RunConfig, values.to_dict())
    assert (run.compressor.chunk_size, run.compressor.window, run.decoder_prefix) == (32, 128, (1,))
    assert run.compressor.context_sees == 'chunk+memory'
    with pytest.raises(TypeError):
        values.compressor.chunk_size = 'x'
    values.compressor.chunksize = 32
    assert 'did you mean compressor.chunk_size?' in _refusal(values.to_dict())
