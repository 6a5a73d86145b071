"""kv500x in transformers: its Llama encodes, its own rotary function turns the keys, its cache carries them."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")

import transformers  # noqa: E402
from transformers.models.llama import modeling_llama as llama  # noqa: E402

from pic_jax.compressors.key_values import KeyValueCompressor  # noqa: E402
from pic_jax.config import CompressorConfig, LoraConfig  # noqa: E402
from pic_jax.models import hf  # noqa: E402
from pic_jax.models.decoder import Decoder  # noqa: E402
from pic_jax.models.scoring import text_logits  # noqa: E402

torch.set_num_threads(1)
N, RATIO, PREFIX = 12, 4, (1, 5)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """One random Llama, read by transformers and by pic_jax."""
    folder = tmp_path_factory.mktemp('llama')
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    ))  # fmt: skip
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1.0, 0.3) if 'norm' in name else value.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    decoder = Decoder(hf.read_config(folder))
    return model, decoder, hf.load_params(folder, decoder.config)


def in_torch(model, memory_kD, special_D, tokens_n, text_T):
    """Logits [T, V] of the text behind [prefix][memory][special], by transformers alone."""
    embed = model.get_input_embeddings()
    k, raw = len(memory_kD), []
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda _, __, out: raw.append(out)) for layer in model.model.layers
    ]
    with torch.no_grad():
        # Slots stand behind the text, so a causal model already has icae's mask; ids go on from the text's.
        encoded = model(inputs_embeds=torch.cat([embed(tokens_n), memory_kD])[None], use_cache=True)
        for hook in hooks:
            hook.remove()
        cache = model(torch.tensor([PREFIX]), use_cache=True).past_key_values
        at_1k = torch.arange(len(PREFIX), len(PREFIX) + k)[None]
        cos, sin = model.model.rotary_emb(memory_kD, at_1k)
        for index, keys_1SW in enumerate(raw):
            keys = keys_1SW[:, -k:].unflatten(-1, (2, -1)).transpose(1, 2)
            keys, _ = llama.apply_rotary_pos_emb(keys, keys, cos, sin)
            cache.update(keys, encoded.past_key_values.layers[index].values[:, :, -k:], index)
        x_1TD = torch.cat([special_D[None], embed(text_T)])[None]
        first = len(PREFIX) + k
        ids_1T = torch.arange(first, first + x_1TD.shape[1])[None]
        return model(inputs_embeds=x_1TD, position_ids=ids_1T, past_key_values=cache).logits[0, :-1]


@pytest.mark.slow
def test_the_decoder_says_what_transformers_says(pair):
    model, decoder, base = pair
    config = CompressorConfig.preset('kv500x', ratio=RATIO, context_length=N, lora=LoraConfig(rank=0))
    compressor = KeyValueCompressor(config, decoder)
    rng = np.random.default_rng(1)
    tokens_n, text_T = rng.integers(2, 64, N), rng.integers(2, 64, 6)
    memory_kD, special_D = (rng.standard_normal(shape).astype(np.float32) for shape in ((N // RATIO, 32), 32))
    trainable = {'memory_embeddings': jnp.asarray(memory_kD), 'special': {}, 'lora': {}}
    memory = compressor.compress(base, trainable, jnp.asarray(tokens_n[None]), jnp.array([N]))
    ours = text_logits(decoder, base, memory, jnp.asarray(special_D), PREFIX, jnp.asarray(text_T[None]))[0]
    given = (torch.from_numpy(array) for array in (memory_kD, special_D, tokens_n, text_T))
    theirs = in_torch(model, *given).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(theirs).max() > 1
