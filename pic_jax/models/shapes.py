"""Shapes of models on the Hugging Face Hub, so that one can be counted and planned for without its weights.

Values are those of each model's config.json and generation_config.json. A run reads the files of the model itself.
"""

from typing import Any

from pic_jax.config import DecoderConfig, RopeConfig

_LLAMA2: dict[str, Any] = dict(
    max_position_embeddings=4096, rms_norm_eps=1e-5, vocab_size=32000, bos_token_id=1, eos_token_ids=(2,)
)
_LLAMA3: dict[str, Any] = dict(
    max_position_embeddings=131072, rms_norm_eps=1e-5, vocab_size=128256, bos_token_id=128000, eos_token_ids=(128001,)
)


def _llama3_rope(factor: float) -> RopeConfig:
    return RopeConfig(theta=500000.0, type='llama3', factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=8192)  # fmt: skip


SHAPES = {
    'meta-llama/Llama-3.2-1B': DecoderConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, rope=_llama3_rope(32.0), tie_word_embeddings=True, **_LLAMA3,
    ),
    'meta-llama/Llama-2-7b-hf': DecoderConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128, **_LLAMA2,
    ),
    'meta-llama/Llama-3.1-8B': DecoderConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, rope=_llama3_rope(8.0), **_LLAMA3,
    ),
    'meta-llama/Llama-2-70b-hf': DecoderConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, head_dim=128, **_LLAMA2,
    ),
}  # fmt: skip


def known_shape(base: str) -> DecoderConfig | None:
    """The shape of `hub:owner/name[@revision]` where the table has it, else None."""
    return SHAPES.get(base.removeprefix('hub:').partition('@')[0]) if base.startswith('hub:') else None
