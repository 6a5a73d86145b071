"""Checkpoints in the layouts of the authors' own code, made by torch models that are put together here."""

import json
import math
import shutil

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
peft = pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")

import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.models.llama import modeling_llama as llama  # noqa: E402

import pic_jax  # noqa: E402
from pic_jax.cli.main import main  # noqa: E402
from pic_jax.run import named_folder  # noqa: E402

torch.set_num_threads(1)
SLOTS, RATIO = 6, 4
ADAPTER = 'icae.base_model.model.model.layers.0.self_attn.{}.lora_A.default.weight'
LENGTHS = (24, 48, 10, 31, 50)  # one full window, two, a short one, two uneven ones, three


@pytest.fixture(scope='module')
def base(trained_workdir):
    return named_folder(pic_jax.load(trained_workdir).run.config.base)


def randomise(module, std=0.2):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.normal_(1.0 if 'norm' in name else 0.0, std)


def contexts(vocab_size):
    return [np.random.default_rng(n).integers(0, vocab_size, n) for n in LENGTHS]


def windows(ids):
    """As both papers' code cuts: equal parts of at most SLOTS * RATIO tokens."""
    count = math.ceil(len(ids) / (SLOTS * RATIO))
    size = math.ceil(len(ids) / count)
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def assert_memory_is(trained, encode):
    """encode: ids of a window -> all its SLOTS vectors, of which a window pays for some."""
    for ids in contexts(trained.run.decoder.config.vocab_size):
        memory = trained.compress(ids[None])
        found = np.asarray(memory.embeddings[0])[np.asarray(memory.valid[0])]
        expected = np.concatenate([encode(part)[: math.ceil(len(part) / RATIO)] for part in windows(ids)])
        assert np.abs(expected).max() > 0.5
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


class Icae(torch.nn.Module):
    """The parts of the second version's state dict: an adapted model, and memory and special vectors in one table."""

    def __init__(self, base):
        super().__init__()
        model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.table = model.get_input_embeddings().weight.detach().clone()
        adapter = peft.LoraConfig(r=3, lora_alpha=5, target_modules=['q_proj', 'v_proj'], task_type='CAUSAL_LM')
        self.icae = peft.get_peft_model(model, adapter)
        self.memory_token_embed = torch.nn.Embedding(SLOTS + 3, model.config.hidden_size)
        randomise(self.memory_token_embed)
        torch.manual_seed(2)
        with torch.no_grad():
            for name, value in self.icae.named_parameters():
                if 'lora_' in name:
                    value.normal_(0.0, 0.2)

    def encode(self, ids):
        with torch.no_grad():
            x = torch.cat([self.table[ids], self.memory_token_embed.weight[:SLOTS]])[None]
            return self.icae(inputs_embeds=x, output_hidden_states=True).hidden_states[-1][0, len(ids) :].numpy()


@pytest.fixture(scope='module')
def icae(base, tmp_path_factory):
    model, file = Icae(base), tmp_path_factory.mktemp('icae') / 'icae.safetensors'
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, file)
    return model, file


def convert(*words):
    return main(['convert', *words])


def test_icae(icae, base, tmp_path):
    model, file = icae
    out = tmp_path / 'out'
    assert convert(f'--base={base}', f'--icae={file}', f'--out={out}', '--lora_alpha=5', '--dtype=float32') == 0
    trained = pic_jax.load(out)
    assert_memory_is(trained, model.encode)
    for i, name in enumerate(('ae', 'lm', 'ft')):
        np.testing.assert_array_equal(
            trained.trainable['special'][name], model.memory_token_embed.weight[SLOTS + i].detach()
        )
    assert trained.run.config.prompt_template == 'llama2-chat'
    assert len(trained.generate(trained.compress(['it is so']), ['why'], 3)) == 1


def test_icae_of_trained_tensors_only(icae, base, tmp_path):
    model, file = icae
    few = {name: x for name, x in load_file(file).items() if 'lora_' in name or 'memory' in name}
    assert len(few) < len(load_file(file))
    save_file(few, tmp_path / 'few.safetensors')
    options = f'--base={base}', '--lora_alpha=5', '--dtype=float32'
    assert convert(*options, f'--icae={tmp_path / "few.safetensors"}', f'--out={tmp_path / "out"}') == 0
    assert_memory_is(pic_jax.load(tmp_path / 'out'), model.encode)


class IcFormer(torch.nn.Module):
    """Named as the authors' modules are; computed with transformers' rotary embedding and torch's attention."""

    def __init__(self, D, heads, F, layers):
        super().__init__()
        self.heads = heads

        def linear(a, b):
            return torch.nn.Linear(a, b, bias=False)

        def layer():
            return torch.nn.ModuleDict({
                'cross_attn': torch.nn.ModuleDict({f'{name}_proj': linear(D, D) for name in 'qkvo'}),
                'cross_input_layernorm': torch.nn.RMSNorm(D, eps=1e-6),
                'context_layernorm': torch.nn.RMSNorm(D, eps=1e-6),
                'post_attention_layernorm': torch.nn.RMSNorm(D, eps=1e-6),
                'mlp': torch.nn.ModuleDict(
                    {'gate_proj': linear(D, F), 'up_proj': linear(D, F), 'down_proj': linear(F, D)}
                ),
            })  # fmt: skip

        self.encoder = torch.nn.ModuleDict(
            {'layers': torch.nn.ModuleList([layer() for _ in range(layers)]), 'norm': torch.nn.RMSNorm(D, eps=1e-6)}
        )
        self.rotary = llama.LlamaRotaryEmbedding(
            transformers.LlamaConfig(
                hidden_size=D, num_attention_heads=heads, rope_parameters={'rope_type': 'default', 'rope_theta': 1e4}
            )
        )
        randomise(self.encoder)

    @torch.no_grad()
    def forward(self, words, digests):
        n, state = len(words), digests[None]
        stream = torch.cat([words, digests])[None]
        cos, sin = self.rotary(stream, torch.arange(stream.shape[1])[None])
        mask = torch.ones(len(digests), stream.shape[1], dtype=torch.bool).tril(n)
        for layer in self.encoder['layers']:
            attention, context = layer['cross_attn'], layer['context_layernorm'](stream)
            query = attention['q_proj'](layer['cross_input_layernorm'](state))
            q, k, v = (
                x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for x in (query, attention['k_proj'](context), attention['v_proj'](context))
            )
            q, _ = llama.apply_rotary_pos_emb(q, q, cos[:, n:], sin[:, n:])
            k, _ = llama.apply_rotary_pos_emb(k, k, cos, sin)
            seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            state = state + attention['o_proj'](seen.transpose(1, 2).flatten(2))
            x, mlp = layer['post_attention_layernorm'](state), layer['mlp']
            state = state + mlp['down_proj'](torch.nn.functional.silu(mlp['gate_proj'](x)) * mlp['up_proj'](x))
        return self.encoder['norm'](state)[0].numpy()


@pytest.fixture(scope='module')
def icformer(base, tmp_path_factory):
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    D = model.config.hidden_size
    encoder, folder = IcFormer(D, 4, 40, 2), tmp_path_factory.mktemp('icformer')
    torch.manual_seed(3)
    digests, ae, ft = torch.randn(1, SLOTS, D), torch.randn(1, 1, D), torch.randn(1, 1, D)
    save_file(dict(encoder.state_dict()), folder / 'model.safetensors')
    save_file({'digest_embeddings': digests, 'AE': ae, 'FT': ft}, folder / 'param.safetensors')
    config = {'model_type': 'icformer', 'hidden_size': D, 'context_hidden_size': D, 'num_hidden_layers': 2,
              'num_attention_heads': 4, 'num_key_value_heads': 4, 'intermediate_size': 40, 'num_query_tokens': SLOTS,
              'cross_attention_frequency': 1, 'rope_scaling': None}  # fmt: skip
    (folder / 'config.json').write_text(json.dumps(config))
    table = model.get_input_embeddings().weight.detach()
    return folder, lambda ids: encoder(table[ids], digests[0]), ft


def test_icformer(icformer, base, tmp_path):
    folder, encode, ft = icformer
    out = tmp_path / 'out'
    assert convert(f'--base={base}', f'--icformer={folder}', f'--out={out}', '--dtype=float32') == 0
    trained = pic_jax.load(out)
    assert_memory_is(trained, encode)
    np.testing.assert_array_equal(trained.trainable['special']['ft'], ft[0, 0])
    assert not np.any(trained.trainable['special']['lm'])
    assert trained.special_name == 'ft'


def test_an_icformer_that_was_not_trained_to_answer_reconstructs(icformer, base, tmp_path):
    folder = shutil.copytree(icformer[0], tmp_path / 'pretrained')
    params = load_file(folder / 'param.safetensors')
    save_file({name: x for name, x in params.items() if name != 'FT'}, folder / 'param.safetensors')
    assert convert(f'--base={base}', f'--icformer={folder}', f'--out={tmp_path / "out"}', '--dtype=float32') == 0
    assert pic_jax.load(tmp_path / 'out').special_name == 'ae'


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'num_key_value_heads': 2}, 'config.json: num_key_value_heads=2 is not supported (supported: 4)'),
        ({'cross_attention_frequency': 2}, 'cross_attention_frequency=2 is not supported'),
        ({'hidden_size': 64}, 'hidden_size=64 is not supported (supported: 32)'),
        ({'num_hidden_layers': 1}, 'encoder.layers.1.cross_attn.q_proj.weight is left over, expected 1 layers'),
        ({'num_hidden_layers': 3}, 'encoder.layers.2.cross_attn.q_proj.weight has shape None, expected (32, 32)'),
        ({'intermediate_size': 41}, 'mlp.gate_proj.weight has shape (40, 32), expected (41, 32)'),
        (None, 'param.pt, a pickle, which is not read here'),
    ],
)
def test_an_icformer_that_does_not_fit_is_refused(icformer, base, tmp_path, capsys, changes, said):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for file in icformer[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if changes is None:
        (folder / 'param.safetensors').rename(folder / 'param.pt')
    else:
        values = json.loads((folder / 'config.json').read_text())
        (folder / 'config.json').write_text(json.dumps(values | changes))
    assert convert(f'--base={base}', f'--icformer={folder}', f'--out={tmp_path / "out"}') == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda tensors: tensors.pop('memory_token_embed.weight'), 'lacks memory_token_embed.weight'),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), 'has extra: expected a state dict of ICAE'),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if 'lora_' in name], 'lacks a LoRA adapter'),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if 'lora_A' in name], 'lacks a LoRA adapter'),
        (lambda tensors: tensors.update({ADAPTER.format('qkv_proj'): torch.zeros(3, 32)}), 'has icae.base_model'),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if 'layers.1.' in name], 'layers.1'),
    ],
)
def test_an_icae_that_does_not_fit_is_refused(icae, base, tmp_path, capsys, change, said):
    tensors = load_file(icae[1])
    change(tensors)
    save_file(tensors, tmp_path / 'broken.safetensors')
    words = f'--base={base}', f'--icae={tmp_path / "broken.safetensors"}', f'--out={tmp_path / "out"}'
    assert convert(*words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_ratio_of_nothing_is_refused(icae, base, tmp_path, capsys):
    assert convert(f'--base={base}', f'--icae={icae[1]}', f'--out={tmp_path / "out"}', '--ratio=0') == 2
    assert 'compressor.ratio=0 is not valid' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
