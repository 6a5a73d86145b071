"""How many memory vectors a context pays for: ceil(tokens / ratio) in each of its chunks."""

from pic_jax.config import CompressorConfig


def chunk_lengths(num_tokens: int, chunk_size: int | None, window: int | None, window_split: str) -> list[int]:
    """Tokens of every chunk of a context of `num_tokens` >= 1, window after window; a last chunk may be short."""
    size = min(window or num_tokens, num_tokens)
    if window_split == 'even':
        size = -(-num_tokens // -(-num_tokens // size))
    lengths = []
    for start in range(0, num_tokens, size):
        in_window = min(size, num_tokens - start)
        chunk = chunk_size or in_window
        lengths += [min(chunk, in_window - first) for first in range(0, in_window, chunk)]
    return lengths


def chunks_of(config: CompressorConfig, num_tokens: int) -> list[int]:
    """`chunk_lengths` as the compressor cuts."""
    return chunk_lengths(num_tokens, config.chunk_size, config.window, config.window_split)


def slots_in(config: CompressorConfig, num_tokens: int) -> int:
    """k of one window of `num_tokens` >= 1: the sum over chunks of ceil(tokens / ratio)."""
    chunk = min(config.chunk_size or num_tokens, num_tokens)
    whole, rest = divmod(num_tokens, chunk)  # no list: num_tokens may be any number that a file says
    return whole * -(-chunk // config.ratio) + -(-rest // config.ratio)


def memory_slots(config: CompressorConfig, num_tokens: int) -> int:
    """k of a whole context, windows and all."""
    return _slots(chunks_of(config, num_tokens), config.ratio)


def _slots(lengths: list[int], ratio: int) -> int:
    return sum(-(-tokens // ratio) for tokens in lengths)


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
