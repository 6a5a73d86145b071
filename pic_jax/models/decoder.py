"""One Llama-family decoder. Linen, used only through init and apply; parameters are a plain nested dict.

B batch, T query length, S key length, D model dim, N query heads, K key/value heads, H head dim, F mlp dim,
V vocabulary, L layers, R LoRA rank. Kernels are [in, out], stacked over layers by `nn.scan`; names follow HF.
An adapter is a second collection, `lora`, with the same paths as the kernels it adds to (models/lora.py). Who asks for
the collection `unrotated` gets the keys as they are before RoPE.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pic_jax.config import DecoderConfig
from pic_jax.models.attention import PatternMask, attend, attend_behind
from pic_jax.models.partitioning import constrain
from pic_jax.models.rope import rotate, rotation
from pic_jax.patterns import causal

Params = dict[str, Any]
RESIDUAL = ('batch', 'length', 'vector')
_INIT = nn.initializers.normal(0.02)
# What of a layer is kept for the backward pass, beside its input: all, or nothing, or the products with its matrices.
REMAT = {'full': None, 'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class KeyValues(NamedTuple):
    """Keys (after RoPE) and values of a stretch of positions, each [L, B, S, K, H]."""

    k: jax.Array
    v: jax.Array


class RMSNorm(nn.Module):
    """Normalises in float32, casts back, then multiplies by the weight, as HF Llama does."""

    eps: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The last dimension of x [..., D]."""
        weight_D = self.param('weight', nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return jnp.broadcast_to(weight_D.astype(self.dtype), x.shape) * x.astype(self.dtype)


class Linear(nn.Module):
    """y = x W (+ b) on the last of three dimensions, plus (x A) B where the `lora` collection has this layer."""

    features: int
    use_bias: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x_BTI: jax.Array) -> jax.Array:
        kernel = self.param('kernel', _INIT, (x_BTI.shape[-1], self.features), self.param_dtype)
        y = x_BTI @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)[None, None]
        if self.has_variable('lora', 'lora_A'):
            a: Any = self.get_variable('lora', 'lora_A')
            b: Any = self.get_variable('lora', 'lora_B')
            y = y + (x_BTI @ a.astype(self.dtype)) @ b.astype(self.dtype)
        return y


class Attention(nn.Module):
    config: DecoderConfig
    dtype: Any
    param_dtype: Any
    backend: str = 'auto'
    platform: str = ''

    @nn.compact
    def __call__(self, x_BTD, past, cos_sin, mask):
        config = self.config

        def linear(name, features, bias):
            return Linear(features, bias, self.dtype, self.param_dtype, name=name)

        def heads(name, count):
            y = linear(name, count * config.head_dim, config.attention_bias or config.qkv_bias)(x_BTD)
            y = y.reshape(*y.shape[:-1], count, config.head_dim)
            return constrain(y, 'batch', 'length', 'heads', 'head_dim')

        def norm(name, y_BTNH):
            if not config.qk_norm:
                return y_BTNH
            return RMSNorm(config.rms_norm_eps, self.dtype, self.param_dtype, name=name)(y_BTNH)

        q_BTNH = rotate(norm('q_norm', heads('q_proj', config.num_attention_heads)), *cos_sin)
        k_BTKH = norm('k_norm', heads('k_proj', config.num_key_value_heads))
        self.sow('unrotated', 'keys', k_BTKH, reduce_fn=lambda _, keys: keys, init_fn=lambda: None)
        k_BTKH = rotate(k_BTKH, *cos_sin)
        v_BTKH = heads('v_proj', config.num_key_value_heads)
        if past is None:
            out_BTNH = attend(q_BTNH, k_BTKH, v_BTKH, mask, self.backend, self.platform)
        else:
            before = past.k.astype(self.dtype), past.v.astype(self.dtype)
            out_BTNH = attend_behind(q_BTNH, before, (k_BTKH, v_BTKH), mask)
        out_BTD = linear('o_proj', config.hidden_size, config.attention_bias)(out_BTNH.reshape(*x_BTD.shape[:-1], -1))
        return out_BTD, KeyValues(k_BTKH, v_BTKH)


class Mlp(nn.Module):
    config: DecoderConfig
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x_BTD):
        def linear(name, features):
            return Linear(features, self.config.mlp_bias, self.dtype, self.param_dtype, name=name)

        gate_BTF = linear('gate_proj', self.config.intermediate_size)(x_BTD)
        up_BTF = linear('up_proj', self.config.intermediate_size)(x_BTD)
        inner_BTF = constrain(nn.silu(gate_BTF) * up_BTF, 'batch', 'length', 'mlp')
        return linear('down_proj', self.config.hidden_size)(inner_BTF)


class Block(nn.Module):
    config: DecoderConfig
    dtype: Any
    param_dtype: Any
    attention: str = 'auto'
    platform: str = ''

    @nn.compact
    def __call__(self, x_BTD, past, cos_sin, mask):
        def norm(name):
            return RMSNorm(self.config.rms_norm_eps, self.dtype, self.param_dtype, name=name)

        backend = self.attention, self.platform
        attention = Attention(self.config, self.dtype, self.param_dtype, *backend, name='self_attn')
        mlp = Mlp(self.config, self.dtype, self.param_dtype, name='mlp')
        out_BTD, key_values = attention(norm('input_layernorm')(x_BTD), past, cos_sin, mask)
        x_BTD = constrain(x_BTD + out_BTD, *RESIDUAL)
        x_BTD = constrain(x_BTD + mlp(norm('post_attention_layernorm')(x_BTD)), *RESIDUAL)
        return x_BTD, key_values


class Decoder(nn.Module):
    """The stack. `embed` and `logits` are its two ends; `__call__` is what lies between.

    Attributes:
      config: shapes. dtype: of the computation. param_dtype: of freshly initialised parameters.
      remat: what the backward pass computes again (REMAT).
      attention, platform: see `attention.choose`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = 'none'
    attention: str = 'auto'
    platform: str = ''

    def setup(self):
        config = self.config
        self.embed_tokens = nn.Embed(
            config.vocab_size, config.hidden_size, self.dtype, self.param_dtype, embedding_init=_INIT
        )
        self.layers = nn.scan(
            rematerialised(Block, self.remat),
            variable_axes={'params': 0, 'lora': 0, 'unrotated': 0},
            split_rngs={'params': True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=config.num_hidden_layers,
        )(config, self.dtype, self.param_dtype, self.attention, self.platform)
        self.norm = RMSNorm(config.rms_norm_eps, self.dtype, self.param_dtype)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.vocab_size, False, self.dtype, self.param_dtype)

    def embed(self, ids_BT: jax.Array) -> jax.Array:
        """[B, T, D] word embeddings of int32 ids."""
        # D is gathered first, as for every other matrix: looking up parts of words would move activations instead.
        table_VD = constrain(self.embed_tokens.embedding.astype(self.dtype), 'vocab', 'vector')
        return constrain(jnp.take(table_VD, ids_BT, axis=0), *RESIDUAL)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: jax.Array | PatternMask,
        past: KeyValues | None = None,
    ) -> tuple[jax.Array, KeyValues]:
        """Runs the layers and the final norm.

        Args:
          x_BTD: input embeddings. positions_BT: int32 position ids.
          mask: of [past positions][these T positions] as keys: see `attention.attend`; with a past, an array.
          past: keys and values of earlier positions, or None.

        Returns:
          hidden [B, T, D] in the compute dtype, and the keys and values of these T positions.
        """
        cos_sin = rotation(self.config.rope, self.config.head_dim, positions_BT, self.dtype)
        x_BTD = constrain(x_BTD.astype(self.dtype), *RESIDUAL)
        x_BTD, key_values = self.layers(x_BTD, past, cos_sin, mask)
        return self.norm(x_BTD), key_values

    def logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """[B, T, V] float32 next-token logits."""
        tied = self.config.tie_word_embeddings
        logits_BTV = self.embed_tokens.attend(hidden_BTD) if tied else self.lm_head(hidden_BTD)
        return constrain(logits_BTV.astype(jnp.float32), 'batch', 'length', 'vocab')

    def forward(self, ids_BT: jax.Array) -> jax.Array:
        """[B, T, V] logits of plain text: ids at positions 0 .. T-1 under a causal mask."""
        T = ids_BT.shape[1]
        positions_BT = jnp.broadcast_to(jnp.arange(T), ids_BT.shape)
        everything = PatternMask(jnp.ones((1, T), bool), causal(T))
        hidden_BTD, _ = self(self.embed(ids_BT), positions_BT, everything)
        return self.logits(hidden_BTD)


def rematerialised(layer: type[nn.Module], policy: str) -> type[nn.Module]:
    """The layer with what its backward pass computes again: `none`, or a key of REMAT."""
    return layer if policy == 'none' else nn.remat(layer, prevent_cse=False, policy=REMAT[policy])


def init_params(decoder: Decoder, key: jax.Array) -> Params:
    """Fresh parameters: matrices N(0, 0.02), norms 1, biases 0."""
    return decoder.init(key, jnp.zeros((1, 1), jnp.int32), method='forward')['params']
