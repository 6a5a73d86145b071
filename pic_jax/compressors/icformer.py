"""IC-Former (In-Context Former, arXiv 2406.13618): digest vectors cross-attend to word embeddings; no target LLM runs.

R rows (windows), n context tokens, k digests, S = n + k keys, D, N, H, F as in models/decoder.py.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pic_jax.budget import num_embeddings
from pic_jax.compressors.base import SPECIALS
from pic_jax.compressors.projector import init_projector, project
from pic_jax.compressors.slots import compress_windows, first_vectors
from pic_jax.config import CompressorConfig, DecoderConfig, RopeConfig
from pic_jax.masks import MEMORY, make_layout
from pic_jax.memory import Memory
from pic_jax.models.attention import PatternMask, attend
from pic_jax.models.decoder import RESIDUAL, Decoder, Linear, Mlp, Params, RMSNorm, rematerialised
from pic_jax.models.partitioning import constrain
from pic_jax.models.rope import rotate, rotation
from pic_jax.patterns import Pattern

RMS_NORM_EPS = 1e-6  # of the paper's configuration


class CrossAttention(nn.Module):
    """Queries from the digest stream, keys and values from the context stream."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any
    backend: tuple[str, str]

    @nn.compact
    def __call__(self, x_RkD, context_RSD, query_rotation, key_rotation, mask):
        config = self.config

        def linear(name, x_RTD, features):
            return Linear(features, False, self.dtype, self.param_dtype, name=name)(x_RTD)

        def heads(name, x_RTD):
            y = linear(name, x_RTD, config.num_attention_heads * config.head_dim)
            return y.reshape(*y.shape[:-1], config.num_attention_heads, config.head_dim)

        q_RkNH = rotate(heads('q_proj', x_RkD), *query_rotation)
        k_RSNH = rotate(heads('k_proj', context_RSD), *key_rotation)
        out_RkNH = attend(q_RkNH, k_RSNH, heads('v_proj', context_RSD), mask, *self.backend)
        return linear('o_proj', out_RkNH.reshape(*x_RkD.shape[:-1], -1), config.hidden_size)


class Layer(nn.Module):
    """Pre-norm cross-attention and SwiGLU; the context stream, normalised by itself, is the same for every layer."""

    config: DecoderConfig
    dtype: Any
    param_dtype: Any
    backend: tuple[str, str]

    @nn.compact
    def __call__(self, x_RkD, context_RSD, query_rotation, key_rotation, mask):
        def norm(name):
            return RMSNorm(self.config.rms_norm_eps, self.dtype, self.param_dtype, name=name)

        attention = CrossAttention(self.config, self.dtype, self.param_dtype, self.backend, name='cross_attn')
        mlp = Mlp(self.config, self.dtype, self.param_dtype, name='mlp')
        context_RSD = norm('context_layernorm')(context_RSD)
        x_RkD = x_RkD + attention(norm('input_layernorm')(x_RkD), context_RSD, query_rotation, key_rotation, mask)
        return constrain(x_RkD + mlp(norm('post_attention_layernorm')(x_RkD)), *RESIDUAL), None


class Digester(nn.Module):
    """The stack of layers and the final norm.

    Attributes:
      backend: backend and platform of the attention (`attention.choose`).
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = 'none'
    backend: tuple[str, str] = ('auto', '')

    @nn.compact
    def __call__(self, digests_RkD: jax.Array, words_RnD: jax.Array, positions_RS: jax.Array, mask: PatternMask):
        """Digest states [R, k, D].

        Args:
          digests_RkD: where the digest stream starts; as keys and values, digests stay what they are here.
          words_RnD: word embeddings of the context.
          positions_RS: int32 position ids of [n tokens][k digests].
          mask: which of these each digest attends to.
        """
        n = words_RnD.shape[1]
        x_RkD = digests_RkD.astype(self.dtype)
        context_RSD = jnp.concatenate([words_RnD.astype(self.dtype), x_RkD], axis=1)
        keys = rotation(self.config.rope, self.config.head_dim, positions_RS, self.dtype)
        queries = tuple(table_RS1H[:, n:] for table_RS1H in keys)
        layers = nn.scan(
            rematerialised(Layer, self.remat),
            variable_axes={'params': 0},
            split_rngs={'params': True},
            in_axes=(nn.broadcast,) * 4,
            length=self.config.num_hidden_layers,
        )(self.config, self.dtype, self.param_dtype, self.backend, name='layers')
        x_RkD, _ = layers(x_RkD, context_RSD, queries, keys, mask)
        return RMSNorm(self.config.rms_norm_eps, self.dtype, self.param_dtype, name='norm')(x_RkD)


@dataclasses.dataclass(frozen=True)
class ICFormer:
    """Digest i of a window sees the whole context (or its chunk) and digests 0 .. i, at the positions of the Layout."""

    config: CompressorConfig
    decoder: Decoder

    @property
    def encoder_config(self) -> DecoderConfig:
        """As wide as the target; heads and inner size are the target's unless set."""
        options, target = self.config.icformer, self.decoder.config
        heads = options.heads or target.num_attention_heads
        return dataclasses.replace(
            target,
            num_hidden_layers=options.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=options.head_dim or target.head_dim,
            intermediate_size=options.intermediate_size or target.intermediate_size,
            rms_norm_eps=RMS_NORM_EPS,
            rope=RopeConfig(),
            attention_bias=False,
            qkv_bias=False,
            qk_norm=False,
            mlp_bias=False,
        )

    @property
    def digester(self) -> Digester:
        """The stack of layers."""
        decoder = self.decoder
        backend = decoder.attention, decoder.platform
        return Digester(self.encoder_config, decoder.dtype, remat=decoder.remat, backend=backend)

    def init(self, key: jax.Array, base: Params) -> dict[str, Any]:
        """Digests and special vectors are zero and matrices N(0, 0.02), as in the authors' code.

        Returns:
          {'memory_embeddings': [m, D], 'special': {name: [D]}, 'icformer': {...}, 'projector': {...}}, float32.
        """
        layers_key, projector_key = jax.random.split(key)
        D = self.decoder.config.hidden_size
        row_1TD = jnp.zeros((1, 1, D))
        positions_12, all_112 = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 1, 2), bool)
        weights = self.digester.init(layers_key, row_1TD, row_1TD, positions_12, all_112)['params']
        return {
            'memory_embeddings': jnp.zeros((num_embeddings(self.config), D)),
            'special': {name: jnp.zeros(D) for name in SPECIALS},
            'icformer': weights,
            'projector': init_projector(projector_key, self.config.projector, base, weights['norm']['weight']),
        }

    def compress(self, base: Params, trainable: dict[str, Any], tokens_BS: jax.Array, lengths_B: jax.Array) -> Memory:
        """Reads `embed_tokens` of `base` and nothing else of it; time and memory grow with n k.

        Raises:
          ConfigError: the padded context does not fit the compressor's digests.
        """
        return compress_windows(self, base, trainable, tokens_BS, lengths_B)

    def pattern(self, num_tokens: int) -> Pattern:
        """Digests see tokens and digests."""
        return Pattern(self.config, num_tokens, queries=(MEMORY,))

    def encode_windows(
        self, base, trainable, embedding_index_Ck, tokens_Rn, positions_RS, mask: PatternMask
    ) -> dict[str, jax.Array]:
        """Final digests of R windows or chunks."""
        words_RnD = self.decoder.apply({'params': base}, tokens_Rn, method='embed')
        digests_RkD = first_vectors(trainable['memory_embeddings'], embedding_index_Ck, len(tokens_Rn))
        weights = {'params': trainable['icformer']}
        states_RkD: Any = self.digester.apply(weights, digests_RkD, words_RnD, positions_RS, mask)
        return {'embeddings': project(trainable['projector'], states_RkD)}

    def check_length(self, num_tokens: int) -> None:
        """Refuses contexts that the learned digests do not reach."""
        make_layout(self.config, min(num_tokens, self.config.window or num_tokens))
