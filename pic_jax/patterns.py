"""Who sees whom as a rule that is never written out, and how attention under it falls into blocks. No jax import."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from pic_jax.config import CompressorConfig
from pic_jax.masks import CONTEXT, MEMORY, Cells, Layout, make_layout, sees

BOTH = (CONTEXT, MEMORY)
ROWS = 128  # queries that are computed at a time where they see keys of other chunks
LARGEST_BLOCK = 512  # tokens of a chunk that is alone, at the most, whose queries look at all of it in one piece
SEGMENTS = 8  # stretches of queries, each of which skips the keys behind the last that it sees
TEXT = CompressorConfig.preset('mean_pool', ratio=1)  # its tokens see each other as those of any text do


class Span(NamedTuple):
    """Positions start .. stop - 1, in blocks of `size`; the last one may be short."""

    start: int
    stop: int
    size: int

    @property
    def blocks(self) -> int:
        return -(-(self.stop - self.start) // self.size)


class Segment(NamedTuple):
    """Blocks of queries first .. stop - 1 of a part, and how many of its far keys they need."""

    first: int
    stop: int
    far: int


class Part(NamedTuple):
    """Queries that find their keys in the same way.

    queries: their blocks; those of several kinds only where there are no far keys. own: keys in as many blocks; a
    block of queries sees some of its own block. far: (first, end) of the keys of which every query may see some.
    group: blocks of queries that are computed at a time. segments: of the blocks, where there are far keys.
    """

    queries: tuple[Span, ...]
    own: tuple[Span, ...]
    far: tuple[int, int]
    group: int
    segments: tuple[Segment, ...]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which of T queries may attend to which of S keys, in one window of a Layout.

    Patterns with the same fields are equal, so that a program or kernel made for one serves all.

    Attributes:
      config, num_tokens: make the Layout. queries, keys: kinds of its positions, in their order in the Layout.
    """

    config: CompressorConfig
    num_tokens: int
    queries: tuple[int, ...] = BOTH
    keys: tuple[int, ...] = BOTH

    @property
    def layout(self) -> Layout:
        return make_layout(self.config, self.num_tokens)

    @property
    def query_cells(self) -> Cells:
        """[T] each."""
        return self.layout.cells[_stretch(self.layout, self.queries)]

    @property
    def key_cells(self) -> Cells:
        """[S] each."""
        return self.layout.cells[self.key_positions]

    @property
    def key_positions(self) -> slice:
        """Where in the Layout the keys stand."""
        return _stretch(self.layout, self.keys)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, S)."""
        return len(self.query_cells.kind), len(self.key_cells.kind)

    def dense(self, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        """[T, S] bool, True where the row may attend to the column; or some of its rows and columns."""
        stretches = (_stretch(self.layout, kinds) for kinds in (self.queries, self.keys))
        positions = (np.arange(len(self.layout.kind))[stretch] for stretch in stretches)
        return self.layout.dense_mask(*(at[part] for at, part in zip(positions, (rows, columns), strict=True)))

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """All queries, in their order."""
        parts = tuple(self._part(kind) for kind in self.queries)
        if any(part.segments for part in parts):
            return parts
        # One product of all queries of a block with all of its keys costs less than one for each kind.
        queries = [span for part in parts for span in part.queries]
        own = dict.fromkeys(span for part in parts for span in part.own)
        return (parts[0]._replace(queries=tuple(queries), own=tuple(own)),)

    @functools.cached_property
    def of_a_chunk(self) -> 'Pattern | None':
        """The pattern that every chunk is, where chunks see nothing of each other and are too large for one piece."""
        chunk = self.config.chunk_size
        if chunk and LARGEST_BLOCK < chunk < self.num_tokens and not any(part.segments for part in self.parts):
            return dataclasses.replace(self, num_tokens=chunk)
        return None

    @property
    def block_pairs(self) -> int:
        """Pairs of query and key that all blocks of `parts` have, seen or not."""
        if self.of_a_chunk:
            return self.parts[0].queries[0].blocks * self.of_a_chunk.block_pairs
        pairs = 0
        for part in self.parts:
            queries, own = (sum(span.size for span in spans) for spans in (part.queries, part.own))
            for first, stop, far in part.segments or (Segment(0, part.queries[0].blocks, 0),):
                blocks = -(-(stop - first) // part.group) * part.group
                pairs += blocks * queries * (own + far)
        return pairs

    def _part(self, kind: int) -> Part:
        chunk = min(self.config.chunk_size or self.num_tokens, self.num_tokens)
        relations = {other: self._relation(kind, other, chunk) for other in self.keys}
        spans = {other: _span(self.layout, self.keys, other, chunk) for other in self.keys}
        own = tuple(spans[other] for other, relation in relations.items() if relation == 'own')
        far = [spans[other] for other, relation in relations.items() if relation == 'far']
        queries = _span(self.layout, self.queries, kind, chunk)
        if not far:
            return Part((queries,), own, (0, 0), queries.blocks, ())
        if not own:
            queries = queries._replace(size=ROWS)
        stretch, group = (far[0].start, far[-1].stop), max(1, ROWS // queries.size)
        return Part((queries,), own, stretch, group, self._segments(queries, stretch, group))

    def _relation(self, query: int, key: int, chunk: int) -> str:
        """`far`: queries of this kind see keys of that kind across chunks; `own`: in their own; `none`."""

        def sees_in_chunk(number: int, other: int) -> bool:
            cells = (Cells(kind, at, 0, at) for kind, at in ((query, number), (key, other)))
            return bool(sees(self.config, *(Cells(*(np.array(field) for field in cell)) for cell in cells)))

        if sees_in_chunk(1, 0) and chunk < self.num_tokens:
            return 'far'
        if sees_in_chunk(0, 0):
            return 'own' if chunk <= LARGEST_BLOCK or chunk < self.num_tokens else 'far'
        return 'none'

    def _segments(self, queries: Span, far: tuple[int, int], group: int) -> tuple[Segment, ...]:
        steps = -(-queries.blocks // group)
        found, count = [], min(SEGMENTS, steps)
        for i in range(count):
            first, stop = (group * (steps * each // count) for each in (i, i + 1))
            stop = min(stop, queries.blocks)
            # Later queries see more of what lies before them, so the last one of a segment decides.
            last = min(queries.start + stop * queries.size, queries.stop) - 1
            seen = np.flatnonzero(self.dense(slice(last, last + 1), slice(*far))[0])
            found.append(Segment(first, stop, int(seen[-1]) + 1 if len(seen) else 0))
        return tuple(found)


def causal(length: int) -> Pattern:
    """The pattern of plain text: every token sees itself and those before it."""
    return Pattern(TEXT, length, (CONTEXT,), (CONTEXT,))


def _stretch(layout: Layout, kinds: tuple[int, ...]) -> slice:
    return slice(0 if CONTEXT in kinds else layout.num_tokens, None if MEMORY in kinds else layout.num_tokens)


def _span(layout: Layout, kinds: tuple[int, ...], kind: int, chunk: int) -> Span:
    """The positions of one kind among those of `kinds`, in blocks of a chunk each."""
    if kind == CONTEXT:
        return Span(0, layout.num_tokens, chunk)
    first = layout.num_tokens if CONTEXT in kinds else 0
    return Span(first, first + layout.num_slots, -(-chunk // layout.config.ratio))
