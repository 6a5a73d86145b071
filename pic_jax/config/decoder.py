"""Shape of a Llama-family decoder."""

import dataclasses

from pic_jax.config.checks import one_of, require


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. `llama3` rescales low frequencies as Llama 3.1 does (all five fields used)."""

    theta: float = 10000.0
    type: str = 'default'
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape of a Llama-family decoder. Field names follow the HF config; letters are this project's.

    Attributes:
      attention_bias: of all four projections; qkv_bias: of queries, keys and values only (Qwen2).
      qk_norm: queries and keys are normalised, head by head, before RoPE (Qwen3).
      model_type: transformers' name of the family, which decides nothing that the other fields do not say.
    """

    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int  # F
    num_hidden_layers: int  # L
    num_attention_heads: int  # N
    num_key_value_heads: int  # K, divides N
    head_dim: int  # H, need not be D / N
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    mlp_bias: bool = False
    model_type: str = 'llama'
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self):
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        require(kv_heads > 0 and heads % kv_heads == 0, 'num_key_value_heads', kv_heads, f'a divisor of {heads}')
        require(self.head_dim % 2 == 0, 'head_dim', self.head_dim, 'an even number')
        one_of('rope.type', self.rope.type, ('default', 'llama3'))
