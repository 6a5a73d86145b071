"""The same numbers as transformers and PEFT (torch, CPU, float32) on small random Llamas, through their own files."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
peft = pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")

import transformers  # noqa: E402
from transformers.generation import logits_process  # noqa: E402
from transformers.models.llama import modeling_llama  # noqa: E402

from pic_jax.config import LoraConfig  # noqa: E402
from pic_jax.models import hf, rope  # noqa: E402
from pic_jax.models import lora as lora_lib  # noqa: E402
from pic_jax.models.decoder import Attention, Decoder, Mlp, RMSNorm  # noqa: E402
from pic_jax.models.generation import Sampling, filter_logits, generate  # noqa: E402
from pic_jax.models.inputs import from_tokens  # noqa: E402

torch.set_num_threads(1)  # these models are too small to share, and idle threads spin

TOLERANCE = 1e-4
MARGIN = 1e-4  # below this, float32 does not decide which of two tokens is greedy
LLAMA3 = {
    'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}  # fmt: skip
CASES = {
    'llama2': dict(num_key_value_heads=4, rms_norm_eps=1e-5),
    # theta 100, so that at this head_dim some frequencies are kept, some slowed and some in between
    'llama3': dict(rope_parameters=LLAMA3 | {'rope_theta': 100.0}),
    'tied': dict(tie_word_embeddings=True),
    'head_dim': dict(head_dim=12),
    'bias': dict(attention_bias=True, mlp_bias=True),
    'sharded': dict(shard='20KB'),
    'bfloat16': dict(dtype=torch.bfloat16),
    'mistral': dict(family='Mistral', head_dim=12, sliding_window=None),
    'qwen2': dict(family='Qwen2', tie_word_embeddings=True),
    'qwen3': dict(family='Qwen3', head_dim=12),
    'qwen3_bias': dict(family='Qwen3', head_dim=12, attention_bias=True),
}


def _build(folder, shard=None, dtype=torch.float32, family='Llama', **options):
    """Saves a random model and reads it back with transformers (float32) and with pic_jax."""
    settings = dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model_class, config_class = (getattr(transformers, family + kind) for kind in ('ForCausalLM', 'Config'))
    model = model_class(config_class(**(settings | options)))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1.0, 0.3) if 'norm' in name else value.normal_(0.0, 0.2)
    model.to(dtype).save_pretrained(folder, **({'max_shard_size': shard} if shard else {}))
    model = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation='eager')
    decoder = Decoder(hf.read_config(folder))
    return model.eval(), decoder, hf.load_params(folder, decoder.config)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return functools.cache(lambda case: _build(tmp_path_factory.mktemp(case), **CASES[case]))


def _logits(model, ids_BT):
    with torch.no_grad():
        return model(torch.from_numpy(ids_BT)).logits.numpy()


@functools.partial(jax.jit, static_argnums=0)
def _forward(decoder, variables, ids_BT):
    return decoder.apply(variables, ids_BT, method='forward')


def _worst(actual, expected):
    return float(np.abs(np.asarray(actual, np.float32) - np.asarray(expected)).max())


@pytest.mark.parametrize('case', CASES)
def test_logits(models, case):
    model, decoder, params = models(case)
    ids_BT = np.random.default_rng(1).integers(0, 64, (2, 80))  # longer than llama3's original_max of 32
    expected = _logits(model, ids_BT)
    assert expected.std() > 0.5
    assert _worst(_forward(decoder, {'params': params}, ids_BT), expected) <= TOLERANCE


def test_cases_are_what_they_are_called(models, tmp_path):
    configs = {case: models(case)[1].config for case in CASES}
    assert configs['llama2'].num_key_value_heads == configs['llama2'].num_attention_heads
    assert configs['llama3'].rope.type == 'llama3'
    assert configs['llama3'].num_key_value_heads < configs['llama3'].num_attention_heads
    assert configs['tied'].tie_word_embeddings
    assert configs['head_dim'].head_dim * configs['head_dim'].num_attention_heads != configs['head_dim'].hidden_size
    assert configs['bias'].attention_bias
    assert configs['bias'].mlp_bias
    assert {leaf.dtype.name for leaf in jax.tree.leaves(models('bfloat16')[2])} == {'bfloat16'}
    assert (configs['mistral'].model_type, configs['mistral'].max_position_embeddings) == ('mistral', 128)
    assert configs['qwen2'].qkv_bias
    assert configs['qwen3'].qk_norm
    assert not configs['qwen3'].attention_bias
    assert {'q_norm', 'k_norm'} < models('qwen3')[2]['layers']['self_attn'].keys()
    _build(tmp_path, **CASES['sharded'])
    assert len(list(tmp_path.glob('*.safetensors'))) > 2
    kept = rope.inverse_frequencies(configs['llama2'].rope.__class__(theta=100.0), 8)
    slowed = kept / rope.inverse_frequencies(configs['llama3'].rope, 8)
    assert slowed[0] == 1
    assert 1 < slowed[1:-1].min() < 8
    np.testing.assert_allclose(slowed[-1], 8, rtol=1e-6)


@pytest.mark.parametrize('case', ['bias', 'mistral', 'qwen2', 'qwen3_bias'])
def test_a_model_that_is_written_loads_in_its_own_class(models, tmp_path, case):
    model, decoder, params = models(case)
    hf.write_model(tmp_path, params, decoder.config, np.float32)
    assert hf.read_config(tmp_path) == decoder.config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(again) is type(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    ids_BT = np.arange(30)[None]
    torch.testing.assert_close(_logits(again, ids_BT), _logits(model, ids_BT), atol=1e-5, rtol=1e-5)


def test_within_its_window_a_sliding_model_is_an_ordinary_one(tmp_path):
    """Which it is taken for: longer texts are refused, as those past the last position are."""
    model, decoder, params = _build(tmp_path, family='Mistral', sliding_window=24)
    assert model.config.sliding_window == 24
    assert decoder.config.max_position_embeddings == 24
    ids_BT = np.random.default_rng(1).integers(0, 64, (2, 40))
    found = _forward(decoder, {'params': params}, ids_BT)
    assert _worst(found[:, :24], _logits(model, ids_BT[:, :24])) <= TOLERANCE
    assert _worst(found, _logits(model, ids_BT)) > 0.1


def test_float32_loading_of_bfloat16_is_the_same(models, tmp_path):
    _build(tmp_path, **CASES['bfloat16'])
    _, decoder, params = models('bfloat16')
    converted = hf.load_params(tmp_path, decoder.config, np.float32)
    ids_BT = np.arange(12)[None]
    np.testing.assert_array_equal(
        _forward(decoder, {'params': converted}, ids_BT), _forward(decoder, {'params': params}, ids_BT)
    )


# Parts, so that a difference in the logits can be found.


@pytest.mark.parametrize('head_dim', [8, 64, 128])
@pytest.mark.parametrize(
    'parameters',
    [
        {'rope_type': 'default', 'rope_theta': 1e4},
        LLAMA3 | {'original_max_position_embeddings': 8192},
        LLAMA3 | {'factor': 32.0, 'low_freq_factor': 2.0, 'high_freq_factor': 8.0},
    ],
    ids=['default', 'llama3.1', 'llama3 other'],
)
def test_rope(parameters, head_dim, tmp_path):
    config = transformers.LlamaConfig(
        rope_parameters=parameters, head_dim=head_dim, hidden_size=32, num_attention_heads=4, intermediate_size=48
    )
    config.save_pretrained(tmp_path)
    ours = hf.read_config(tmp_path)
    theirs = modeling_llama.LlamaRotaryEmbedding(config)
    np.testing.assert_allclose(
        rope.inverse_frequencies(ours.rope, ours.head_dim), theirs.inv_freq.numpy(), rtol=1e-6, atol=0
    )
    x_BNTH = torch.randn(2, 3, 50, head_dim, generator=torch.Generator().manual_seed(0))
    positions_BT = torch.stack([torch.arange(50), torch.arange(50, 100)])
    expected, _ = modeling_llama.apply_rotary_pos_emb(x_BNTH, x_BNTH, *theirs(x_BNTH, positions_BT))
    cos_sin = rope.rotation(ours.rope, ours.head_dim, jnp.asarray(positions_BT.numpy(), jnp.int32), jnp.float32)
    actual = rope.rotate(jnp.asarray(x_BNTH.transpose(1, 2).numpy()), *cos_sin)
    assert _worst(actual, expected.transpose(1, 2)) <= TOLERANCE


def _layer(params, *path):
    """Parameters of a part of layer 1."""
    node = params['layers']
    for key in path:
        node = node[key]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[1]), node)


@pytest.mark.parametrize('case', ['llama3', 'bias'])
def test_parts_of_a_layer(models, case):
    model, decoder, params = models(case)
    layer, config = model.model.layers[1], decoder.config
    x_BTD = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0))
    x, types = jnp.asarray(x_BTD.numpy()), (jnp.float32, jnp.float32)
    positions_BT = torch.arange(40).expand(2, 40)
    causal = torch.full((40, 40), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        norm = layer.post_attention_layernorm(100 * x_BTD)
        small = layer.post_attention_layernorm(1e-3 * x_BTD)  # where eps matters
        mlp = layer.mlp(x_BTD)
        rotary = model.model.rotary_emb(x_BTD, positions_BT)
        attention, _ = layer.self_attn(x_BTD, position_embeddings=rotary, attention_mask=causal)
    weight = _layer(params, 'post_attention_layernorm')
    apply_norm = lambda x: RMSNorm(config.rms_norm_eps, *types).apply({'params': weight}, x)
    assert _worst(apply_norm(100 * x), norm) <= 1e-5
    assert _worst(apply_norm(1e-3 * x), small) <= 1e-5
    assert _worst(Mlp(config, *types).apply({'params': _layer(params, 'mlp')}, x), mlp) <= TOLERANCE
    cos_sin = rope.rotation(config.rope, config.head_dim, jnp.asarray(positions_BT.numpy(), jnp.int32), jnp.float32)
    ours, _ = Attention(config, *types).apply(
        {'params': _layer(params, 'self_attn')}, x, None, cos_sin, jnp.tri(40, dtype=bool)[None]
    )
    assert _worst(ours, attention) <= TOLERANCE


# Generation.

PROMPT_LENGTHS, NEW = (9, 2, 6, 1), 24


def _prompts():
    ids_BT = np.random.default_rng(2).integers(3, 64, (len(PROMPT_LENGTHS), max(PROMPT_LENGTHS)))
    return [row[:length] for row, length in zip(ids_BT, PROMPT_LENGTHS, strict=True)]


def _generate_torch(model, prompts, new, eos_ids=None):
    """Greedy tokens [B, new] of transformers (0 behind the end) and the top-2 margin of each step."""
    width = max(map(len, prompts))
    ids_BT = torch.zeros(len(prompts), width, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for b, prompt in enumerate(prompts):  # left-padded, as transformers wants it
        ids_BT[b, width - len(prompt) :], mask_BT[b, width - len(prompt) :] = torch.tensor(prompt), 1
    out = model.generate(
        ids_BT, attention_mask=mask_BT, max_new_tokens=new, do_sample=False, eos_token_id=eos_ids, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    best = torch.stack(out.logits, dim=1).topk(2, dim=-1).values
    return out.sequences[:, width:].numpy(), (best[..., 0] - best[..., 1]).numpy()


def _generate_jax(decoder, params, prompts, new, eos_ids=()):
    ids_BT = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for b, prompt in enumerate(prompts):
        ids_BT[b, : len(prompt)] = prompt
    inputs = from_tokens(decoder, params, jnp.asarray(ids_BT), jnp.array([len(prompt) for prompt in prompts]))
    tokens, lengths = generate(decoder, params, inputs, new, eos_ids)
    return np.asarray(tokens), lengths.tolist()


@pytest.mark.parametrize('case', ['llama2', 'llama3', 'tied', 'head_dim', 'mistral', 'qwen2', 'qwen3'])
def test_greedy_generation(models, case, capsys):
    model, decoder, params = models(case)
    expected, margin = _generate_torch(model, _prompts(), NEW)
    actual, lengths = _generate_jax(decoder, params, _prompts(), NEW)
    assert lengths == [NEW] * len(PROMPT_LENGTHS)
    close = margin < MARGIN
    compared = [int(np.argmax(row)) if row.any() else NEW for row in close]
    with capsys.disabled():
        print(f'\n{case}: {sum(compared)} of {close.size} greedy tokens compared, {close.sum()} margins below {MARGIN}')
    assert sum(compared) >= 0.9 * close.size
    for b, steps in enumerate(compared):
        np.testing.assert_array_equal(actual[b, :steps], expected[b, :steps])
        assert len(set(expected[b])) > 3


def test_several_end_tokens(models):
    model, decoder, params = models('llama3')
    free, _ = _generate_torch(model, _prompts(), NEW)

    def ends(*eos_ids):
        return [int(np.append(np.flatnonzero(np.isin(row, eos_ids)), NEW)[0]) for row in free]

    # A pair that ends every row, in which both matter.
    pairs = itertools.combinations(np.unique(free).tolist(), 2)
    eos_ids = next(pair for pair in pairs if max(ends(*pair)) < NEW == max(ends(pair[0])) == max(ends(pair[1])))
    expected, _ = _generate_torch(model, _prompts(), NEW, list(eos_ids))
    actual, lengths = _generate_jax(decoder, params, _prompts(), NEW, eos_ids)
    assert lengths == ends(*eos_ids)
    assert len(set(lengths)) > 1
    for b, length in enumerate(lengths):
        through_end = slice(0, min(length + 1, expected.shape[1]))
        np.testing.assert_array_equal(actual[b, through_end], expected[b, through_end])


@pytest.mark.parametrize(
    'options',
    [
        dict(temperature=0.7), dict(temperature=1.0, top_k=1), dict(temperature=1.3, top_k=10),
        dict(temperature=1.0, top_p=0.9), dict(temperature=1.0, top_p=0.05), dict(temperature=1.0, top_k=500),
        dict(temperature=0.6, top_k=20, top_p=0.8),
    ],
    ids=str,
)  # fmt: skip
def test_filtered_distributions(options):
    scores_BV = 2 * torch.randn(16, 200, generator=torch.Generator().manual_seed(0))
    theirs = logits_process.LogitsProcessorList([logits_process.TemperatureLogitsWarper(options['temperature'])])
    if 'top_k' in options:
        theirs.append(logits_process.TopKLogitsWarper(options['top_k']))
    if 'top_p' in options:
        theirs.append(logits_process.TopPLogitsWarper(options['top_p']))
    expected = torch.softmax(theirs(None, scores_BV), dim=-1).numpy()
    actual = np.asarray(jax.nn.softmax(filter_logits(jnp.asarray(scores_BV.numpy()), Sampling(**options)), axis=-1))
    np.testing.assert_array_equal(actual > 0, expected > 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    if options.keys() - {'temperature'} and options.get('top_k') != 500:
        assert ((expected > 0).sum(axis=1) < 150).all()


def test_stories260k_greedy_text(assets):
    folder = assets / 'stories260K-hf'
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    decoder = Decoder(hf.read_config(folder))
    params = hf.load_params(folder, decoder.config)
    prompts = [[1], [1, *tokenizer.encode('Lily and Tom went to the park', add_special_tokens=False)]]
    model.generation_config.eos_token_id = None
    expected, _ = _generate_torch(model, prompts, 200)
    actual, _ = _generate_jax(decoder, params, prompts, 200)
    assert expected.shape == (2, 200)
    assert [tokenizer.decode(row) for row in actual] == [tokenizer.decode(row) for row in expected]
    np.testing.assert_array_equal(actual, expected)
    assert tokenizer.decode(actual[0]).strip().startswith('Once upon a time, there was a little girl')


# LoRA.


def test_lora_logits_equal_peft(models, tmp_path):
    model, decoder, params = _build(tmp_path, **CASES['llama3'])
    targets = ('q_proj', 'v_proj', 'down_proj')
    plain = _logits(model, np.arange(40)[None])
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings).eval()
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if 'lora_' in name:
                value.normal_(0.0, 0.1)
    config = LoraConfig(rank=4, alpha=8.0, targets=targets)
    lora = lora_lib.init_lora(jax.random.key(0), params, config)
    state = peft.get_peft_model_state_dict(adapted)
    copied = 0
    for group, layer in lora['layers'].items():
        for name, factors in layer.items():
            for factor in factors:
                key = f'base_model.model.model.layers.{{}}.{group}.{name}.{factor}.weight'
                value = np.stack([state[key.format(index)].numpy().T for index in range(2)])
                assert value.shape == factors[factor].shape
                factors[factor] = jnp.asarray(value)
                copied += 2
    assert copied == len(state) == 2 * 2 * len(targets)
    expected = _logits(adapted, np.arange(40)[None])
    actual = _forward(decoder, {'params': params, 'lora': lora_lib.scaled(lora, config)}, np.arange(40)[None])
    assert _worst(expected, plain) > 0.1
    assert _worst(actual, expected) <= TOLERANCE
