"""IC-Former in torch, from transformers' own Llama parts: another form of the paper's layers, the same digests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")

import transformers  # noqa: E402
from transformers.models.llama import modeling_llama as llama  # noqa: E402

from pic_jax.compressors.icformer import ICFormer  # noqa: E402
from pic_jax.config import CompressorConfig, IcformerConfig  # noqa: E402
from pic_jax.models.decoder import Decoder  # noqa: E402

torch.set_num_threads(1)
RATIO, LENGTHS = 3, (14, 7)


class TorchLayer(torch.nn.Module):
    """One layer after section 3 of arXiv 2406.13618: queries from the digests, keys and values from the context."""

    def __init__(self, config):
        super().__init__()
        D, width = config.hidden_size, config.num_attention_heads * config.head_dim
        self.input_layernorm = llama.LlamaRMSNorm(D, eps=config.rms_norm_eps)
        self.context_layernorm = llama.LlamaRMSNorm(D, eps=config.rms_norm_eps)
        self.post_attention_layernorm = llama.LlamaRMSNorm(D, eps=config.rms_norm_eps)
        self.cross_attn = torch.nn.ModuleDict(
            {name: torch.nn.Linear(D, width, bias=False) for name in ('q_proj', 'k_proj', 'v_proj')}
            | {'o_proj': torch.nn.Linear(width, D, bias=False)}
        )
        self.mlp = llama.LlamaMLP(config)
        self.heads = config.num_attention_heads

    def forward(self, digests_1kD, stream_1SD, cos, sin):
        n = stream_1SD.shape[1] - digests_1kD.shape[1]
        query, context = self.input_layernorm(digests_1kD), self.context_layernorm(stream_1SD)

        def split(name, x):
            return self.cross_attn[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split('q_proj', query), split('k_proj', context), split('v_proj', context)
        q, _ = llama.apply_rotary_pos_emb(q, q, cos[:, n:], sin[:, n:])
        k, _ = llama.apply_rotary_pos_emb(k, k, cos, sin)
        mask_kS = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(n)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_kS)
        digests_1kD = digests_1kD + self.cross_attn['o_proj'](out.transpose(1, 2).flatten(2))
        return digests_1kD + self.mlp(self.post_attention_layernorm(digests_1kD))


def test_digests_equal_those_of_torch(tiny_config, random_params):
    decoder = Decoder(tiny_config())
    base = random_params(decoder)
    options = IcformerConfig(layers=3, heads=2, head_dim=12, intermediate_size=40)
    config = CompressorConfig.preset('icformer', ratio=RATIO, context_length=16, icformer=options)
    compressor = ICFormer(config, decoder)
    rng = np.random.default_rng(0)
    trainable = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.3 * rng.standard_normal(leaf.shape), jnp.float32),
        compressor.init(jax.random.key(0), base),
    )
    weights = trainable['icformer']
    shape = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=40, num_attention_heads=2, head_dim=12, rms_norm_eps=1e-6,
        rope_parameters={'rope_type': 'default', 'rope_theta': 10000.0},
    )  # fmt: skip
    layers = [TorchLayer(shape) for _ in range(options.layers)]
    for number, layer in enumerate(layers):
        state = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights['layers']):
            name = '.'.join(key.key for key in path).replace('.kernel', '.weight')
            state[name] = torch.tensor(np.asarray(leaf[number]).T.copy())
        layer.load_state_dict(state)
    norm = llama.LlamaRMSNorm(32, eps=1e-6)
    norm.load_state_dict({'weight': torch.tensor(np.asarray(weights['norm']['weight']))})
    rotary = llama.LlamaRotaryEmbedding(shape)

    tokens_BS = rng.integers(2, 64, (2, 16)).astype(np.int32)
    memory = compressor.compress(base, trainable, jnp.asarray(tokens_BS), jnp.array(LENGTHS))
    table_VD = torch.tensor(np.asarray(base['embed_tokens']['embedding']))
    digests_mD = torch.tensor(np.asarray(trainable['memory_embeddings']))
    for row, length in enumerate(LENGTHS):
        k = -(-length // RATIO)
        x_1kD = digests_mD[None, :k]
        stream_1SD = torch.cat([table_VD[tokens_BS[row, :length]][None], x_1kD], dim=1)
        cos, sin = rotary(stream_1SD, torch.arange(length + k)[None])
        with torch.no_grad():
            for layer in layers:
                x_1kD = layer(x_1kD, stream_1SD, cos, sin)
            expected_kD = norm(x_1kD)[0].numpy()
        actual_kD = np.asarray(memory.embeddings[row, :k])
        assert np.abs(expected_kD).max() > 1
        np.testing.assert_allclose(actual_kD, expected_kD, atol=1e-4)
