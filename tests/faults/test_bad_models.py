"""Folders of models, compressors and adapters with something wrong in them, through the verbs that open them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusals import refused, snapshot
from safetensors.numpy import load_file, save_file

MISSING = object()
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 1e4, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 128}  # fmt: skip

# Dotted key of the base's config.json, its value, and what is said beside the key.
BASE = [
    ('model_type', MISSING, 'missing'),
    ('model_type', 'gpt2', 'supported: llama, mistral, qwen2, qwen3'),
    ('model_type', ['llama'], 'supported: llama'),
    ('model_type', {}, 'supported: llama'),
    *((key, MISSING, 'missing') for key in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
                                            'num_attention_heads', 'max_position_embeddings')),
    *((key, value, 'expected a positive int')
      for key in ('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads')
      for value in (0, -1, 1.5, '8', True, [8], float('nan'))),
    ('hidden_size', 2**62, 'has shape'),
    ('vocab_size', 2**62, 'has shape'),
    ('vocab_size', 10**400, 'expected a positive int'),
    ('intermediate_size', 2**62, 'has shape'),
    ('num_hidden_layers', 3, 'missing model.layers.2'),
    ('num_hidden_layers', 1, 'unexpected model.layers.1'),
    ('num_hidden_layers', 10**7, 'does not fit: the checkpoint has'),
    ('num_hidden_layers', 2**62, 'does not fit: the checkpoint has'),
    ('num_key_value_heads', 3, 'a divisor of 4'),
    ('num_key_value_heads', 2**62, 'a divisor of 4'),
    ('head_dim', 7, 'an even number'),
    ('head_dim', 0, 'expected a positive int'),
    ('head_dim', 2**62, 'has shape'),
    ('rms_norm_eps', None, 'expected a positive float'),  # of others null is as good as nothing
    ('rms_norm_eps', 0, 'expected a positive float'),
    ('rms_norm_eps', float('inf'), 'expected a positive float'),
    ('rms_norm_eps', float('nan'), 'expected a positive float'),
    ('rms_norm_eps', 10**400, 'expected a positive float'),
    ('rms_norm_eps', '1e-5', 'expected a positive float'),
    ('hidden_act', 'gelu', 'supported: silu'),
    ('hidden_act', None, 'supported: silu'),
    ('quantization_config', {'bits': 4}, 'supported: None'),
    ('quantization_config', {}, 'supported: None'),
    ('tie_word_embeddings', 'no', 'expected true or false'),
    ('tie_word_embeddings', 1, 'expected true or false'),
    ('attention_bias', None, 'expected true or false'),
    ('attention_bias', True, 'missing model.layers.0.self_attn.k_proj.bias'),
    ('mlp_bias', 0.0, 'expected true or false'),
    ('bos_token_id', 600, 'expected an id below 600'),
    ('bos_token_id', -1, 'expected an id below 600'),
    ('bos_token_id', True, 'expected an id below 600'),
    ('bos_token_id', '1', 'expected an id below 600'),
    ('eos_token_id', [600], 'expected ids below 600'),
    ('eos_token_id', [True], 'expected ids below 600'),
    ('eos_token_id', {'a': 1}, 'expected ids below 600'),
    ('eos_token_id', 1.0, 'expected ids below 600'),
    ('rope_parameters', [1], 'expected a JSON object'),
    ('rope_parameters', 'default', 'expected a JSON object'),
    ('rope_parameters.rope_type', 'yarn', 'supported: default, llama3'),
    ('rope_parameters.rope_type', ['default'], 'supported: default, llama3'),
    ('rope_parameters.rope_theta', 0, 'expected a positive number'),
    ('rope_parameters.rope_theta', -1.0, 'expected a positive number'),
    ('rope_parameters.rope_theta', float('inf'), 'expected a positive number'),
    ('rope_parameters.rope_theta', 10**400, 'expected a positive number'),
    ('rope_parameters.rope_theta', '10000', 'expected a positive number'),
    ('rope_parameters', {key: value for key, value in LLAMA3.items() if key != 'factor'}, 'llama3 rope lacks factor'),
    ('rope_parameters', LLAMA3 | {'factor': 0}, 'factor=0 is not valid: expected a positive number'),
    ('rope_parameters', LLAMA3 | {'factor': 'x'}, "factor='x' is not valid: expected a positive number"),
    ('rope_parameters', LLAMA3 | {'low_freq_factor': 4.0},
     'low_freq_factor=4.0 is not valid: expected a number below high_freq_factor=4.0'),
]  # fmt: skip

# The same of a saved compressor's config.json.
RUN = [
    ('compressor', [1], 'expected a group of settings'),
    ('compressor.ratio', 'four', 'expected int'),
    ('compressor.ratio', 4.0, 'expected int'),
    ('compressor.ratio', True, 'expected int'),
    ('compressor.ratio', 2**62, 'compressor.chunk_size'),
    ('compressor.method', 'gzip', 'one of icae'),
    ('compressor.method', ['pic'], 'expected str'),
    ('compressor.chunk_size', '8', 'expected int'),
    ('compressor.lora.rank', 3, 'has shape'),
    ('compressor.lora.rank', 2**62, 'has shape'),
    ('compressor.lora.alpha', float('inf'), 'expected a finite number'),
    ('compressor.lora.alpha', float('nan'), 'expected a finite number'),
    ('compressor.lora.targets', 'q_proj', 'expected a list of str'),
    ('compressor.lora.targets', [1], 'expected str'),
    ('compressor.lora.targets', [], 'has shape'),
    ('compressor.projector', 'linear', 'projector.kernel has shape None'),
    ('compressor.ratios', [4, 2**62], 'divisors of compressor.chunk_size=8'),
    ('base', '', 'the folder of a model'),
    ('base', 'no/such/folder', 'no/such/folder/config.json: no such file'),
    ('base', 'a\0b', r'a\x00b/config.json: no such file'),
    ('base', 'x' * 300, 'File name too long'),
    ('base', 'hub:../x', 'hub:../x: cannot be downloaded'),
    ('base', 'hub:a', "'hub:a' is not valid: expected hub:owner/name"),
    ('base', 'hub:a/b@../../x', 'is not valid: expected hub:owner/name or hub:owner/name@revision'),
    ('base', '$PIC_JAX_NOT_SET/x', 'PIC_JAX_NOT_SET is not set'),
    ('base', 3, 'expected str'),
    ('base', None, 'expected str'),
    ('seed', -1, '0 to 4294967295'),
    ('seed', 2**64, '0 to 4294967295'),
    ('dtype', 'int4', 'one of float32, bfloat16'),
    ('prompt_template', 'chat', 'no chat template'),
    ('decoder_prefix', [600], 'expected ids below 600'),
    ('decoder_prefix', [-1], 'expected ids below 600'),
    ('decoder_prefix', ['a'], 'expected int'),
    ('objective.lm', 10**400, 'expected a finite float'),
    ('modeling', 'x.py', 'unknown config key modeling'),
    ('_target_', 'os.system', 'unknown config key _target_'),
    ('auto_map', {'AutoModel': 'evil.Evil'}, 'unknown config key auto_map'),
]

# The same of an exported artefact's config.json.
ARTEFACT = [
    ('model_type', 'llama', "expected 'pic_compressor'"),
    ('model_type', MISSING, "model_type is None, expected 'pic_compressor'"),
    ('format_version', 1, "format_version is 1, expected '1'"),
    ('format_version', '2', "expected '1'"),
    ('target', [1], 'target lacks identity'),
    ('target', MISSING, 'target lacks identity'),
    ('target.identity', 3, 'target lacks identity'),
    ('target.identity', '0' * 64, 'belongs to another frozen model'),
    ('target.tokenizer_sha256', MISSING, 'lacks identity or tokenizer_sha256'),
    ('target.tokenizer_sha256', '0' * 64, 'was trained with another tokenizer'),
    ('run', [1], "'run' is [1], expected the settings of a run"),
    ('run', MISSING, "'run' is None"),
    ('run.compressor', 'pic', 'compressor='),
    ('run.compressor.ratio', -4, 'compressor.ratio=-4'),
    ('run.base', 'no/such/folder', 'no/such/folder'),
    ('run.unknown', 1, 'unknown config key unknown'),
]

# The same of its adapter_config.json.
ADAPTER = [
    ('peft_type', 'IA3', "peft_type is 'IA3', expected 'LORA'"),
    ('r', 3, 'r is 3, expected 2'),
    ('r', None, 'r is None, expected 2'),
    ('lora_alpha', 1, 'lora_alpha is 1, expected 32.0'),
    ('lora_alpha', float('nan'), 'lora_alpha is nan, expected 32.0'),
    ('use_rslora', True, 'use_rslora is True, expected none: the adapter is plain LoRA'),
    ('use_dora', True, 'use_dora is True'),
    ('fan_in_fan_out', True, 'fan_in_fan_out is True'),
    ('rank_pattern', {'q_proj': 4}, 'rank_pattern is'),
    ('alpha_pattern', {'q_proj': 4}, 'alpha_pattern is'),
    ('layer_replication', [[0, 2], [1, 2]], 'layer_replication is'),
    ('modules_to_save', ['lm_head'], 'modules_to_save is'),
    ('exclude_modules', 'v_proj', "exclude_modules is 'v_proj'"),
    ('lora_bias', True, 'lora_bias is True'),
    ('use_qalora', True, 'use_qalora is True'),
    ('alora_invocation_tokens', [1], 'alora_invocation_tokens is [1]'),
    ('target_parameters', ['x'], "target_parameters is ['x']"),
    ('layers_pattern', 'layers', "layers_pattern is 'layers'"),
    ('init_lora_weights', 'pissa', "init_lora_weights is 'pissa', expected true"),
    ('init_lora_weights', 1, 'init_lora_weights is 1, expected true'),
    ('target_modules', ['q_proj'], "target_modules is ['q_proj'], expected ["),
    ('target_modules', '.*_proj', "target_modules is '.*_proj', expected ["),
    ('target_modules', MISSING, 'target_modules is None, expected ['),
]

# Texts in the place of a whole JSON file.
TEXTS = [
    ('', 'not valid JSON'), ('{', 'not valid JSON'), ('[]', 'expected a JSON object'), ('3', 'expected a JSON object'),
    ('{"seed": 1' + '0' * 5000 + '}', 'not valid JSON'), ('[' * 100_000, 'nested too deeply'), ('\0', 'not valid JSON'),
]  # fmt: skip


def change(path: Path, key: str, value: object) -> None:
    """Sets a dotted key of a JSON file."""
    values = node = json.loads(path.read_text())
    *parents, last = key.split('.')
    for parent in parents:
        node = node[parent]
    node[last] = value
    if value is MISSING:
        del node[last]
    path.write_text(json.dumps(values))


def ids(rows: list) -> list[str]:
    return [f'{key}={"missing" if value is MISSING else ascii(value)[:30]}' for key, value, _ in rows]


@pytest.fixture
def base(tmp_path, tiny_target, monkeypatch) -> Path:
    """A copy of the tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PIC_JAX_NOT_SET', raising=False)
    return Path(shutil.copytree(tiny_target, tmp_path / 'base'))


@pytest.fixture(scope='session')
def saved_compressor(trained_workdir, tmp_path_factory) -> Path:
    """What `TrainedCompressor.save` writes."""
    import pic_jax

    folder = tmp_path_factory.mktemp('saved') / 'pic'
    pic_jax.load(trained_workdir).save(folder)
    return folder


@pytest.fixture
def saved(saved_compressor, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PIC_JAX_NOT_SET', raising=False)
    Path('note.txt').write_text('Mara lives in Stonehaven.')
    return Path(shutil.copytree(saved_compressor, tmp_path / 'saved'))


@pytest.fixture
def exported(exported_compressor, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(exported_compressor, tmp_path / 'exported'))


def convert(base: Path) -> list[str]:
    return ['convert', f'--base={base}', '--out=out']


def compress(saved: Path) -> list[str]:
    return ['compress', f'--workdir={saved}', 'note.txt', '--out=out']


@pytest.mark.parametrize(('key', 'value', 'said'), BASE, ids=ids(BASE))
def test_a_bad_config_of_a_model_is_refused(base, capsys, key, value, said):
    change(base / 'config.json', key, value)
    named = '' if any(words in said for words in ('has shape', 'model.layers', 'factor')) else key.rpartition('.')[2]
    shown = 'rope_scaling' if named == 'rope_parameters' else named
    refused(capsys, convert(base), 1, 'base', shown, said)
    assert not Path('out').exists()


@pytest.mark.parametrize(('key', 'value', 'said'), RUN, ids=ids(RUN))
def test_a_bad_config_of_a_compressor_is_refused(saved, capsys, monkeypatch, key, value, said):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    change(saved / 'config.json', key, value)
    before = snapshot(saved)
    at_open = ('the folder of a model', 'no chat template', 'ids below 600', 'NOT_SET', 'expected hub:')
    refused(capsys, compress(saved), 2 if any(words in said for words in at_open) else 1, said)
    assert snapshot(saved) == before
    assert not Path('out').exists()


@pytest.mark.parametrize(('key', 'value', 'said'), ARTEFACT, ids=ids(ARTEFACT))
def test_a_bad_config_of_an_artefact_is_refused(exported, capsys, key, value, said):
    change(exported / 'config.json', key, value)
    refused(capsys, ['check', str(exported)], 1, said)


@pytest.mark.parametrize(('key', 'value', 'said'), ADAPTER, ids=ids(ADAPTER))
def test_a_bad_config_of_an_adapter_is_refused(exported, capsys, key, value, said):
    change(exported / 'adapter' / 'adapter_config.json', key, value)
    refused(capsys, ['check', str(exported)], 1, 'adapter_config.json', said)


@pytest.mark.parametrize(('text', 'said'), TEXTS, ids=[ascii(text[:12]) for text, _ in TEXTS])
def test_a_file_that_is_no_json_object_is_refused(base, saved, exported, capsys, text, said):
    for command, file in (
        (convert(base), base / 'config.json'),
        (compress(saved), saved / 'config.json'),
        (['check', str(exported)], exported / 'adapter' / 'adapter_config.json'),
        (['check', str(exported)], exported / 'config.json'),
        (['convert', f'--base={base}', '--out=out'], base / 'model.safetensors.index.json'),
    ):
        before = file.read_bytes() if file.exists() else None
        file.write_text(text)
        refused(capsys, command, 1, said)
        file.unlink() if before is None else file.write_bytes(before)


# What is done to one tensor of a file, and what is said of it.
TENSORS = [
    (lambda x: x.astype(np.float64), 'has dtype F64, expected F32 or BF16 or F16'),
    (lambda x: x.astype(np.int64), 'has dtype I64'),
    (lambda x: x.astype(np.int8), 'has dtype I8'),
    (lambda x: x > 0, 'has dtype BOOL'),
    (lambda x: x.astype(np.complex64), 'has dtype C64'),
    (lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size - 1, np.nan, x), 'a number that is not finite'),
    (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.inf, x), 'a number that is not finite'),
    (lambda x: np.full_like(x, -np.inf), 'a number that is not finite'),
    (lambda x: x[None], 'shape'),
    (lambda x: x[:-1], 'shape'),
    (lambda x: np.zeros((0, *x.shape), np.float32), 'shape'),
    (lambda x: np.float32(1), 'shape'),
    (lambda x: None, ''),
]  # fmt: skip
FILES = {
    'base': ('model.safetensors', 'model.norm.weight'),
    'saved': ('compressor.safetensors', 'memory_embeddings'),
    'exported': ('pic.safetensors', 'special.lm'),
    'adapter': ('adapter/adapter_model.safetensors', 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'),
}
METADATA = {'saved': {'format': 'pic-compressor', 'format_version': '1'}}


@pytest.mark.parametrize('what', FILES)
@pytest.mark.parametrize(('damage', 'said'), TENSORS, ids=[said.replace('has dtype ', '') + str(n) for n, (_, said) in
                                                           enumerate(TENSORS)])  # fmt: skip
def test_a_bad_tensor_is_refused_by_name(base, saved, exported, capsys, what, damage, said):
    folder, command = {
        'base': (base, convert(base)), 'saved': (saved, compress(saved)),
        'exported': (exported, ['check', str(exported)]), 'adapter': (exported, ['check', str(exported)]),
    }[what]  # fmt: skip
    file, name = FILES[what]
    tensors = load_file(folder / file)
    changed = damage(tensors[name].astype(np.float32))
    tensors[name] = None if changed is None else np.ascontiguousarray(changed)
    kept = {key: value for key, value in tensors.items() if value is not None}
    kept = {key: value.astype(np.float32) if value.dtype == np.float64 and 'F64' not in said else value
            for key, value in kept.items()}  # fmt: skip
    save_file(kept, folder / file, METADATA.get(what))
    refused(capsys, command, 1, name, said)
    assert not Path('out').exists()


TOKENIZERS = [
    ('tokenizer.json', b'', 'holds no valid tokenizer'),
    ('tokenizer.json', b'{}', 'holds no valid tokenizer'),
    ('tokenizer.json', b'[]', 'holds no valid tokenizer'),
    ('tokenizer.json', b'\xff\xfe', 'holds no valid tokenizer'),
    ('tokenizer.json', b'[' * 100_000, 'holds no valid tokenizer'),
    ('tokenizer.json', {'model': None}, 'holds no valid tokenizer'),
    ('tokenizer.json', {'model': {'type': 'BPE'}}, 'holds no valid tokenizer'),
    ('tokenizer.json', {'pre_tokenizer': {'type': 'Split', 'pattern': {'Regex': '(('}, 'behavior': 'Isolated',
                                          'invert': False}}, 'holds no valid tokenizer'),
    ('tokenizer.json', {'normalizer': {'type': 'Replace', 'pattern': {'String': ''}, 'content': 'x' * 99}},
     'the tokenizer fails'),
    ('tokenizer_config.json', b'', 'not valid JSON'),
    ('tokenizer_config.json', b'[]', 'expected a JSON object'),
    ('tokenizer_config.json', b'[' * 100_000, 'nested too deeply'),
    ('tokenizer_config.json', {'tokenizer_class': 5}, 'tokenizer_class=5 is not valid'),
    ('tokenizer_config.json', {'tokenizer_class': 'LlamaForCausalLM'}, "tokenizer_class='LlamaForCausalLM' is not"),
    ('tokenizer_config.json', {'tokenizer_class': 'os.system'}, "tokenizer_class='os.system' is not valid"),
    ('tokenizer_config.json', {'model_max_length': 'x'}, 'holds no valid tokenizer'),
    ('tokenizer_config.json', {'eos_token': 5}, 'holds no valid tokenizer'),
    ('tokenizer_config.json', {'eos_token': {'content': 5}}, 'holds no valid tokenizer'),
    ('tokenizer_config.json', {'extra_special_tokens': 7}, 'holds no valid tokenizer'),
    ('tokenizer_config.json', {'added_tokens_decoder': {'x': {}}}, 'holds no valid tokenizer'),
    ('config.json', {'tokenizer_class': 'AutoModel'}, "tokenizer_class='AutoModel' is not valid"),
]  # fmt: skip


@pytest.mark.parametrize(('file', 'content', 'said'), TOKENIZERS, ids=[f'{f} {str(c)[:30]}' for f, c, _ in TOKENIZERS])
def test_a_bad_tokenizer_is_refused(base, capsys, file, content, said):
    path = base / file
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    Path('note.txt').write_text('Mara lives in Stonehaven.')
    refused(capsys, ['tokenize', 'note.txt', f'--base={base}', '--out=out'], 1, said)
    assert not Path('out').exists()


def test_a_tokenizer_of_another_model_is_refused_where_its_ids_are_beyond_the_vocabulary(saved, base, capsys):
    path = base / 'tokenizer.json'
    values = json.loads(path.read_text())
    values['added_tokens'].append({'id': 600, 'content': 'Stonehaven', 'single_word': False, 'lstrip': False,
                                   'rstrip': False, 'normalized': False, 'special': False})  # fmt: skip
    path.write_text(json.dumps(values))
    change(saved / 'config.json', 'base', str(base))
    refused(capsys, compress(saved), 1, 'token id 600 is not valid: expected 0 to 599')
