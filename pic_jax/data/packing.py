"""Short documents joined into rows, so that batches are less padding and no document is too short.

The rule is next-fit: documents stay whole and in order, and a row ends where the next document would not fit. Two
neighbouring rows hold more than one row has room for, so rows are more than half full on average; packers that reorder
fill them further. It needs lengths only: every process and every resumed run finds the same rows, and none is stored.

MaxText and TRL call this packing too. MaxText masks attention between the documents of a row; here nothing does: a row
is compressed, continued and written out again as one text with end tokens in it.
"""

import dataclasses
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from pic_jax.errors import ConfigError

if TYPE_CHECKING:
    from pic_jax.data.examples import TokenisedRecord


def next_fit(lengths: np.ndarray, length: int) -> np.ndarray:
    """Which documents stand in which row.

    Args:
      lengths: tokens of every document, integers [N].
      length: tokens of a row at the most, with one between two documents; a document longer than that stays alone.

    Returns:
      the first document of every row and the one behind its last, int64 [R, 2]. Every document is in one row.
    """
    ends_N = np.cumsum(lengths.astype(np.int64) + 1)  # each with the token behind it
    starts_N = ends_N - lengths - 1
    stops_N = np.searchsorted(ends_N, starts_N + length + 1, side='right')
    stops_N = np.maximum(stops_N, np.arange(len(lengths)) + 1)
    rows, first = [], 0
    while first < len(lengths):
        rows.append((first, int(stops_N[first])))
        first = rows[-1][1]
    return np.array(rows, np.int64).reshape(-1, 2)


class Packed(Sequence['TokenisedRecord']):
    """Rows of documents as records, each joined when it is asked for: documents that are on disk stay there.

    The source of a row names its first and its last document: 'notes.jsonl:3-7'.
    """

    def __init__(
        self, documents: Sequence['TokenisedRecord'], lengths: np.ndarray, rows: np.ndarray, length: int, eos_id: int
    ):
        """`lengths`, `rows` and `length` are those of `next_fit`; `eos_id` goes between documents."""
        self._documents, self._lengths, self._rows = documents, lengths, rows
        self._length, self._eos = length, np.array([eos_id], np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> 'TokenisedRecord': ...

    @overload
    def __getitem__(self, index: slice) -> 'Packed': ...

    def __getitem__(self, index: 'int | slice') -> 'TokenisedRecord | Packed':
        if isinstance(index, slice):
            return self._of(self._rows[index])
        records = [self._documents[place] for place in range(*self._rows[index].tolist())]
        parts = [part for record in records for part in (self._eos, record.context)]
        source = _span(records[0].source, records[-1].source)
        return dataclasses.replace(records[0], context=np.concatenate(parts[1:]), source=source)

    def __iter__(self) -> Iterator['TokenisedRecord']:
        return (self[index] for index in range(len(self)))

    def _of(self, rows: np.ndarray) -> 'Packed':
        return Packed(self._documents, self._lengths, rows, self._length, int(self._eos[0]))

    @property
    def num_documents(self) -> int:
        """Documents in all rows."""
        return int((self._rows[:, 1] - self._rows[:, 0]).sum())

    def at_least(self, tokens: int) -> 'Packed':
        """The rows of so many tokens or more."""
        return self._of(self._rows[self._tokens() >= tokens])

    def told(self) -> str:
        """What packing did, in a line; padding is counted against rows of the full length."""
        apart_R = self._sums(np.minimum(self._lengths, self._length))
        before = 1 - apart_R.sum() / self._length / self.num_documents
        padding = 1 - np.minimum(self._tokens(), self._length).sum() / self._length / len(self)
        packed = f'packed {self.num_documents:,} documents into {len(self):,} rows'
        return f'{packed}, {padding:.0%} padding instead of {before:.0%}'

    def _tokens(self) -> np.ndarray:
        """Tokens of every row, end tokens too, int64 [R]."""
        return self._sums(self._lengths) + self._rows[:, 1] - self._rows[:, 0] - 1

    def _sums(self, values_N: np.ndarray) -> np.ndarray:
        """Sums over the documents of every row, int64 [R]."""
        ends = np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])
        return ends[self._rows[:, 1]] - ends[self._rows[:, 0]]


def pack(
    documents: Sequence['TokenisedRecord'], lengths: np.ndarray, length: int, least: int, eos_id: int | None
) -> Packed:
    """Joins the documents of one split (`next_fit`), with the end token between them.

    Args:
      documents: records without questions; `lengths`: tokens of each, integers [N].
      length: tokens of a row at the most. least: rows of fewer are left out.

    Raises:
      ConfigError: there is no end token.
    """
    if eos_id is None:
        raise ConfigError(
            'data.pack=True is not valid: expected False, since the tokenizer has no end token to put between documents'
        )
    return Packed(documents, lengths, next_fit(lengths, length), length, eos_id).at_least(least)


def _span(first: str, last: str) -> str:
    """'notes.jsonl:3' and 'notes.jsonl:7' as 'notes.jsonl:3-7'."""
    if first == last:
        return first
    stem = last.rstrip(string.digits)
    is_run = stem != last and stem == first.rstrip(string.digits)
    return f'{first}-{last.removeprefix(stem)}' if is_run else f'{first} to {last}'
