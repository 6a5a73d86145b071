"""Where memory slots look: the encoder's attention from slots to context tokens, and how much of it is local.

The layers run as they are, one by one; their projections are captured on the way and the probabilities, which the
attention kernel does not give out, are computed from them again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.compressors.llm import LLMCompressor
from pic_jax.config import DecoderConfig
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.masks import make_layout
from pic_jax.models.decoder import Block
from pic_jax.models.rope import rotate, rotation
from pic_jax.run import Run


def memory_attention(run: Run, trainable: dict[str, Any], tokens_BS: jax.Array) -> jax.Array:
    """Attention from the k memory slots to the n context tokens, mean over heads and contexts.

    Args:
      tokens_BS: int32 contexts of n = S true tokens each, no more than one window.

    Returns:
      [L, k, n] float32. A row sums to at most 1: the rest is on memory slots.

    Raises:
      ConfigError: the compressor has no encoder of this kind, or the contexts do not fit one window.
    """
    compressor, n = run.compressor, tokens_BS.shape[1]
    if not isinstance(compressor, LLMCompressor):
        method = run.config.compressor.method
        raise ConfigError(f'compressor.method={method} has no attention to show: expected icae, epl, pic or kv500x')
    if compressor.config.window is not None and n > compressor.config.window:
        raise ConfigError(
            f'contexts of {n} tokens are not valid here: expected one window, compressor.window='
            f'{compressor.config.window} tokens at the most'
        )
    compressor.check_length(n)
    return _memory_attention(compressor, run.base, trainable, tokens_BS)


def diagonality(attention_kn: np.ndarray, ratio: int) -> float:
    """How much more a slot attends to its own part of the context than uniform attention would.

    Slot j stands for tokens j r .. (j + 1) r - 1. Its attention on these and the r tokens on either side, as a share of
    its attention on the context, is divided by the share of the context that this band covers.

    Args:
      attention_kn: [k, n] attention of slots on context tokens, at least 0, some in every row.
      ratio: r, with k = ceil(n / r).

    Returns:
      the mean over slots; 1.0 for uniform attention, at the most about n / 3r.

    Raises:
      PicJaxError: k does not fit n and r.
    """
    attention_kn = np.asarray(attention_kn, np.float64)
    k, n = attention_kn.shape
    if k != -(-n // ratio):
        raise PicJaxError(f'{k} slots over {n} tokens are not valid: expected {-(-n // ratio)} at ratio {ratio}')
    start_k1, token_1n = ratio * np.arange(k)[:, None], np.arange(n)[None]
    band_kn = (token_1n >= start_k1 - ratio) & (token_1n < start_k1 + 2 * ratio)
    mass_k = (attention_kn * band_kn).sum(axis=1) / attention_kn.sum(axis=1)
    return float(np.mean(mass_k / band_kn.mean(axis=1)))


@functools.partial(jax.jit, static_argnums=0)
def _memory_attention(compressor: LLMCompressor, base, trainable, tokens_BS) -> jax.Array:
    decoder, (B, n) = compressor.decoder, tokens_BS.shape
    layout = make_layout(compressor.config, n)
    mask_1SS = jnp.asarray(layout.dense_mask())[None]
    positions_BS = layout.positions(jnp.full(B, n, jnp.int32))
    cos_sin = rotation(decoder.config.rope, decoder.config.head_dim, positions_BS, decoder.dtype)
    variables, x_BSD = compressor.encoder_input(base, trainable, tokens_BS, layout.embedding_index[None])
    block = Block(decoder.config, decoder.dtype, decoder.param_dtype)

    def layer(x_BSD, weights):
        (x_BSD, _), state = block.apply(weights, x_BSD, None, cos_sin, mask_1SS, capture_intermediates=True)
        attention_BNSS = probabilities(decoder.config, state['intermediates']['self_attn'], cos_sin, mask_1SS)
        return x_BSD, jnp.mean(attention_BNSS[:, :, n:, :n], axis=(0, 1))

    weights_L = {name: collection['layers'] for name, collection in variables.items()}
    return jax.lax.scan(layer, x_BSD.astype(decoder.dtype), weights_L)[1]


def probabilities(config: DecoderConfig, captured: dict[str, Any], cos_sin, mask_BTS: jax.Array) -> jax.Array:
    """[B, N, T, T] float32 probabilities of an attention layer that ran without a cache.

    Args:
      captured: its intermediates: what `q_proj` and `k_proj` gave, or the norms behind them, before RoPE.
      cos_sin, mask_BTS: what the layer was given; every row of the mask has a True.
    """

    def heads(name: str, count: int) -> jax.Array:
        y = captured[name]['__call__'][0]
        return rotate(y.reshape(*y.shape[:2], count, config.head_dim), *cos_sin)

    N, K = config.num_attention_heads, config.num_key_value_heads
    part = 'norm' if config.qk_norm else 'proj'
    q_BTNH, k_BSKH = heads(f'q_{part}', N), heads(f'k_{part}', K)
    k_BSNH = jnp.repeat(k_BSKH, N // K, axis=2)  # a key head serves N / K query heads in a row
    logits_BNTS = jnp.einsum('BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits_BNTS * config.head_dim**-0.5, axis=-1, where=mask_BTS[:, None])
