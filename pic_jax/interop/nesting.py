"""What stored contexts of a nested compressor say about their ratio, so that they can be shrunk without a model."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from pic_jax.budget import chunk_lengths
from pic_jax.config import WINDOW_SPLITS, CompressorConfig
from pic_jax.errors import PicJaxError
from pic_jax.interop.checks import is_int, require
from pic_jax.nested import at_ratio, why_not_shrinkable


@dataclasses.dataclass(frozen=True)
class Nesting:
    """The metadata `nesting` of a file (docs/FORMATS.md).

    Attributes:
      ratio: at which the contexts are stored.
      ratios: all that the compressor serves, ascending.
      chunk_size, window, window_split: how it cuts a context; vectors stand in the order of the chunks.
      why_not_shrink: why dropping vectors does not give what the compressor makes at a coarser ratio; '' where it does.
    """

    ratio: int
    ratios: tuple[int, ...]
    chunk_size: int | None
    window: int | None
    window_split: str
    why_not_shrink: str

    def __post_init__(self):
        ratios, chunk = self.ratios, self.chunk_size
        usable = isinstance(ratios, tuple) and all(is_int(ratio, 1) for ratio in ratios)
        ascending = usable and list(ratios) == sorted(set(ratios))
        require(ascending, 'nesting.ratios', ratios, 'ascending integers of at least 1')
        require(is_int(self.ratio, 1) and self.ratio in ratios, 'nesting.ratio', self.ratio, f'one of {list(ratios)}')
        for name in ('chunk_size', 'window'):
            value = getattr(self, name)
            require(value is None or is_int(value, 1), f'nesting.{name}', value, 'an integer of at least 1 or null')
        fits = chunk is None or all(chunk % ratio == 0 for ratio in ratios)
        require(fits, 'nesting.chunk_size', chunk, f'a multiple of each of ratios={list(ratios)}')
        known = self.window_split in WINDOW_SPLITS
        require(known, 'nesting.window_split', self.window_split, ' or '.join(WINDOW_SPLITS))
        require(isinstance(self.why_not_shrink, str), 'nesting.why_not_shrink', self.why_not_shrink, 'a string')

    @classmethod
    def parse(cls, text: str) -> 'Nesting':
        """From the JSON object of a file.

        Raises:
          PicJaxError: it is not one, or breaks a rule.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise PicJaxError(f'metadata nesting is not valid: expected a JSON object of {", ".join(sorted(names))}')
        if isinstance(values['ratios'], list):
            values['ratios'] = tuple(values['ratios'])
        return cls(**values)

    def chunks(self, num_tokens: int) -> list[int]:
        """Tokens of every chunk of a context."""
        return chunk_lengths(num_tokens, self.chunk_size, self.window, self.window_split)

    def check(self, source_tokens: Sequence[int], lengths_N: np.ndarray, positions_Nk: np.ndarray) -> None:
        """Raises PicJaxError unless every context has the vectors, and where it matters the ids, that it must have."""
        most = min(self.ratio, self.window or self.ratio)  # tokens per vector: a wrong number must not cost memory
        for tokens, k in sorted(set(zip(source_tokens, lengths_N.tolist(), strict=True))):
            if tokens > k * most or sum(-(-chunk // self.ratio) for chunk in self.chunks(tokens)) != k:
                raise PicJaxError(f'lengths={k} is not what nesting makes of a context of {tokens} source tokens')
        place_1k = np.arange(positions_Nk.shape[1])[None]
        sequential = (positions_Nk == place_1k) | (place_1k >= lengths_N[:, None])
        if not self.why_not_shrink and not sequential.all():
            raise PicJaxError('positions are not valid: expected 0, 1, 2 ... where nesting.why_not_shrink is empty')


def nesting_of(config: CompressorConfig, ratio: int) -> Nesting | None:
    """The metadata of contexts compressed at `ratio`; None where the compressor has one ratio."""
    if not config.ratios:
        return None
    at_ratio(config, ratio)  # refuses one that is not served
    return Nesting(
        ratio, config.ratios, config.chunk_size, config.window, config.window_split, why_not_shrinkable(config)
    )
