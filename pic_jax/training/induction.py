"""An initialisation under which a small decoder learns to copy and to read in minutes instead of never.

Copying rests on two attention circuits (Olsson et al. 2022, arXiv 2209.11895): heads of one layer attend to the
previous token and write it beside the present one; heads of the next layer look for positions whose previous token is
the present token, and predict the token found there. Reading is the same with the last few tokens in place of one:
what follows a similar stretch of text. From random weights these circuits appear late or, with a million parameters and
minutes of training, not at all. Here they are there, weakly, at the start, and every weight is trained on. In the
spirit of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pic_jax.config import DecoderConfig
from pic_jax.errors import ConfigError
from pic_jax.models.decoder import Params
from pic_jax.models.rope import inverse_frequencies

# RoPE pairs, fastest first; the distance back at which they meet; and the attention logit there.
PREVIOUS = (slice(0, 3), 1.0, 24.0)
RECENT = (slice(2, 6), 4.0, 6.0)
CONTENT_FROM = 7 / 16  # pairs from this share of them on turn slowly enough to compare content across a context
MATCH = 3.0  # gain of the comparison
WRITE, WRITE_FOUND = 0.12, 0.8  # gains of what layers 0 and 1 write
NOISE = 0.3  # how much of the random weights stays in these heads
WIDTH = 0.57  # length of the word embeddings without the shared direction, and along it


class Stream(NamedTuple):
    """Directions of the residual stream.

    Attributes:
      shared: [D], in every word. words: [D, D/2 - 1], tell words apart.
      previous, recent: [D, H], where layer 0 writes the previous token and the recent ones.
      squeeze: [D, H], what it reads of a word to write it there.
    """

    shared: np.ndarray
    words: np.ndarray
    previous: np.ndarray
    recent: np.ndarray
    squeeze: np.ndarray


Kernels = Mapping[str, np.ndarray]  # those of q, k, v [L, D, N H] and o [L, N H, D], which are written to


def with_induction(params: Params, config: DecoderConfig, seed: int) -> Params:
    """`params` with the circuits laid into layers 0 and 1.

    Word embeddings start in one half of the dimensions, next to a direction that all of them share; a quarter holds
    the previous token and a quarter the recent ones, both as layer 0 writes them. Queries and keys that read the shared
    direction are constants, and RoPE turns constants into preferences for a distance.

    Args:
      params: fresh parameters of a decoder with at least two layers, four heads (key/value heads too) and D = 4 H.

    Raises:
      ConfigError: the decoder has another shape.
    """
    check_shape(config)
    H, rng = config.head_dim, np.random.default_rng(seed)
    attention = params['layers']['self_attn']
    kernels = {name: np.array(attention[f'{name}_proj']['kernel']) for name in 'qkvo'}
    heads = [slice(head * H, (head + 1) * H) for head in range(4)]
    stream, table_VD = _embed(config, rng)
    _lay_previous(kernels, heads, stream, inverse_frequencies(config.rope, H))
    _lay_copying(kernels, heads, stream, rng)
    laid = {f'{name}_proj': {'kernel': jnp.asarray(kernel, jnp.float32)} for name, kernel in kernels.items()}
    return params | {
        'embed_tokens': {'embedding': jnp.asarray(table_VD, jnp.float32)},
        'layers': params['layers'] | {'self_attn': laid},
    }


def check_shape(config: DecoderConfig) -> None:
    """Raises ConfigError where the circuits do not fit the decoder."""
    D, H = config.hidden_size, config.head_dim
    if (config.num_attention_heads, config.num_key_value_heads, D) != (4, 4, 4 * H) or config.num_hidden_layers < 2:
        raise ConfigError(
            f'a decoder of {config.num_hidden_layers} layers and {config.num_attention_heads} heads '
            f'({config.num_key_value_heads} for keys and values) is not valid: the copying circuits need 2 layers and '
            'num_attention_heads = num_key_value_heads = 4'
        )
    if 2 * RECENT[0].stop > H:
        raise ConfigError(f'hidden_size={D} is not valid: the copying circuits need at least {8 * RECENT[0].stop}')


def _orthonormal(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def _embed(config: DecoderConfig, rng: np.random.Generator) -> tuple[Stream, np.ndarray]:
    """The residual stream, words [D/2] (their first direction is the shared one), previous [H], recent [H]; and the
    word embeddings [V, D] in it."""
    H = config.head_dim
    words_DW, previous_DH, recent_DH = np.split(_orthonormal(config.hidden_size, rng), [2 * H, 3 * H], axis=1)
    shared_D, words_DW = words_DW[:, 0], words_DW[:, 1:]
    table_VW = rng.normal(size=(config.vocab_size, words_DW.shape[1]))
    table_VW *= WIDTH / np.linalg.norm(table_VW, axis=1, keepdims=True)
    squeeze_DH = words_DW @ _orthonormal(words_DW.shape[1], rng)[:, :H]
    table_VD = table_VW @ words_DW.T + WIDTH * shared_D
    return Stream(shared_D, words_DW, previous_DH, recent_DH, squeeze_DH), table_VD


def _lay_previous(kernels: Kernels, heads: list[slice], stream: Stream, frequency_P: np.ndarray) -> None:
    """Layer 0: head 0 brings the previous token, head 1 the recent ones, squeezed from D/2 to H dimensions."""
    D, H = stream.squeeze.shape
    targets = (PREVIOUS, stream.previous), (RECENT, stream.recent)
    for own, ((pairs, back, score), place_DH) in zip(heads, targets, strict=False):
        # Key (1, 0) and query (cos f b, -sin f b) of a pair of frequency f meet best b positions back.
        query_H, key_H, angle_P = np.zeros(H), np.zeros(H), back * frequency_P[pairs]
        key_H[pairs] = 1
        query_H[pairs], query_H[H // 2 :][pairs] = np.cos(angle_P), -np.sin(angle_P)
        # Half of the squared length D of a normalised embedding is the shared direction's.
        gain = (score / len(angle_P) * H**0.5 / (D / 2)) ** 0.5
        for name, side_H in ('q', query_H), ('k', key_H):
            kernel_DH = kernels[name][0][:, own]
            kernel_DH[:] = NOISE * kernel_DH + gain * np.outer(stream.shared, side_H)
        kernels['v'][0][:, own] = stream.squeeze
        kernels['o'][0][own] = WRITE * place_DH.T


def _lay_copying(kernels: Kernels, heads: list[slice], stream: Stream, rng: np.random.Generator) -> None:
    """Layer 1, heads 0 and 1: where was the present token the previous one (copying)? Heads 2 and 3: where were the
    recent tokens the same (reading)? Both compare in pairs that turn slowly, and predict the token found."""
    D, H = stream.squeeze.shape
    slow = np.array([dim for dim in range(H) if dim % (H // 2) >= CONTENT_FROM * (H // 2)])
    found_DH2 = np.concatenate([np.zeros((D, 1)), stream.words], axis=1)  # half of it to each head of a pair
    for head, own in enumerate(heads):
        mix_HS = _orthonormal(H, rng)[:, : len(slow)]
        copying = stream.previous, stream.squeeze
        seen_DH, sought_DH = copying if head < 2 else (stream.recent, stream.recent)
        for name, side_DH in ('q', sought_DH), ('k', seen_DH):
            kernels[name][1][:, own] *= NOISE
            kernels[name][1][:, head * H + slow] += MATCH * side_DH @ mix_HS
        value_DH = found_DH2[:, heads[head % 2]]
        kernels['v'][1][:, own] = NOISE * kernels['v'][1][:, own] + value_DH
        kernels['o'][1][own] = NOISE * kernels['o'][1][own] + WRITE_FOUND * value_DH.T
