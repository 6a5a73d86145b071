"""How many memory vectors a context pays for, ceil(tokens / ratio) in each of its chunks, and how many position ids."""

from typing import Any

import numpy as np

from pic_jax.config import CompressorConfig


def chunk_lengths(num_tokens: int, chunk_size: int | None, window: int | None, window_split: str) -> list[int]:
    """Tokens of every chunk of a context of `num_tokens` >= 1, window after window; a last chunk may be short."""
    size, lengths = _window_size(num_tokens, window, window_split), []
    for start in range(0, num_tokens, size):
        in_window = min(size, num_tokens - start)
        chunk = chunk_size or in_window
        lengths += [min(chunk, in_window - first) for first in range(0, in_window, chunk)]
    return lengths


def slots_in(config: CompressorConfig, num_tokens: int) -> int:
    """k of one window: the sum over chunks of ceil(tokens / ratio). Chunks are multiples of the ratio."""
    return -(-num_tokens // config.ratio)


def memory_slots(config: CompressorConfig, num_tokens: int) -> int:
    """k of a whole context, windows and all."""
    size = _window_size(num_tokens, config.window, config.window_split)
    return num_tokens // size * slots_in(config, size) + slots_in(config, num_tokens % size)


def spread_position(start: Any, ratio: int) -> Any:
    """Position id of a slot that is spread over the context: the middle of its group, whose first token has `start`."""
    return start + (ratio - 1) // 2


def decoder_positions(config: CompressorConfig, num_tokens: int) -> int:
    """Position ids that the memory of a context of 1 to `num_tokens` tokens takes in the decoder at the most.

    As `slots.decoder_memory` places the text behind it. With windows of even sizes a shorter context may take more.
    """
    lengths: Any = np.arange(1, num_tokens + 1)
    if config.decoder_positions == 'sequential':
        return int(np.max(memory_slots(config, lengths)))
    size = _window_size(lengths, config.window, config.window_split)
    in_window = (lengths - 1) % size
    last_group = lengths - 1 - in_window % config.ratio
    return max(num_tokens, int(spread_position(last_group, config.ratio).max()) + 1)


def _window_size(num_tokens: int, window: int | None, window_split: str) -> int:
    """Tokens of every window but a shorter last one."""
    size = window or num_tokens
    return -(-num_tokens // -(-num_tokens // size)) if window_split == 'even' else size


def window_length(config: CompressorConfig) -> int:
    """Tokens of the longest window that `per_window` embeddings serve."""
    return config.window or config.context_length


def embedded_tokens(config: CompressorConfig) -> int:
    """Tokens of the stretch whose slots have a learned vector each: a chunk, or a window."""
    if config.memory_embeddings == 'per_chunk':
        return config.chunk_size or window_length(config)
    return window_length(config)


def num_embeddings(config: CompressorConfig) -> int:
    """How many memory vectors the compressor learns."""
    return slots_in(config, embedded_tokens(config))
