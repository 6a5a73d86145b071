"""Nested ratios: one compressor serves several, each from the first vectors that the finest gives to every chunk.

At ratio r', a chunk of c tokens has ceil(c / r') slots, which start from the first of the learned vectors that it has
at the finest ratio. So the compressor of r' is an ordinary one, with the settings `at_ratio` and the weights
`trainable_at`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pic_jax.budget import chunk_lengths, embedded_tokens
from pic_jax.config import CompressorConfig
from pic_jax.errors import ConfigError


def served_ratios(config: CompressorConfig) -> tuple[int, ...]:
    """Every ratio that the compressor is trained for, the finest first."""
    return config.ratios or (config.ratio,)


def at_ratio(config: CompressorConfig, ratio: int) -> CompressorConfig:
    """The settings of the ordinary compressor that serves one ratio.

    Raises:
      ConfigError: the compressor does not serve it.
    """
    served = served_ratios(config)
    if ratio not in served:
        few = '' if config.ratios else ', the only ratio it was trained for (compressor.ratios trains several)'
        raise ConfigError(f'ratio={ratio} is not valid: the compressor serves {", ".join(map(str, served))}{few}')
    return dataclasses.replace(config, ratio=ratio, ratios=())


def trainable_at(config: CompressorConfig, trainable: dict[str, Any], ratio: int) -> dict[str, Any]:
    """The weights of `at_ratio(config, ratio)`: all of them, but of the memory embeddings those that it uses."""
    if ratio == config.ratio or 'memory_embeddings' not in trainable:
        return trainable
    kept = kept_embeddings(config, ratio)
    return trainable | {'memory_embeddings': trainable['memory_embeddings'][kept]}


def kept_embeddings(config: CompressorConfig, ratio: int) -> np.ndarray:
    """Indices of the learned vectors that a coarser ratio uses."""
    chunks = chunk_lengths(embedded_tokens(config), config.chunk_size, None, 'fixed')
    return kept_slots(chunks, config.ratio, ratio)


def kept_slots(chunks: Sequence[int], ratio: int, coarser: int) -> np.ndarray:
    """Indices of the slots at `ratio` that remain at a `coarser` one: the first of each chunk.

    Args:
      chunks: true tokens of every chunk of a context, in order (`budget.chunk_lengths`).
    """
    kept, first = [], 0
    for tokens in chunks:
        kept.append(first + np.arange(-(-tokens // coarser)))
        first += -(-tokens // ratio)
    return np.concatenate(kept)


def why_not_shrinkable(config: CompressorConfig) -> str:
    """Why dropping slots is not compressing at the coarser ratio; '' where it is.

    It is where nothing that a slot sees, and no position id, depends on the ratio. Moving a chunk as a whole would do
    no harm in exact arithmetic, RoPE being relative; but float32 angles lose 1e-5 within 1,000 tokens, so it counts.
    """
    if config.method == 'mean_pool':
        return 'method=mean_pool averages other groups of tokens at another ratio'
    if config.decoder_positions == 'spread':
        return 'decoder_positions=spread places vectors by the ratio'
    if config.method == 'constant_memory':
        return ''
    if config.positions == 'spread':
        return 'positions=spread places slots by the ratio'
    if config.chunk_size is None:
        return ''
    if config.context_sees == 'chunk+memory':
        return 'context_sees=chunk+memory lets tokens see the slots of earlier chunks'
    if config.memory_sees_memory == 'previous':
        return 'memory_sees_memory=previous lets slots see those of earlier chunks'
    if config.position_origin == 'window':
        return f'positions={config.positions} with position_origin=window counts the slots of earlier chunks'
    return ''
