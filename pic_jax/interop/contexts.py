"""Stored contexts: what a file of compressed contexts holds, checked, and what can be done with it without a model.

That is enough to serve: the memory vectors, their positions, the special vector that follows them and the ids that
stand before them. `context_files` reads and writes it. Importing this module needs no jax.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from pic_jax.config import TEMPLATES
from pic_jax.errors import PicJaxError
from pic_jax.interop.checks import is_int, require
from pic_jax.interop.nesting import Nesting

if TYPE_CHECKING:
    from pic_jax.memory import Memory

VECTOR_DTYPES = {'F32': np.dtype(np.float32), 'BF16': np.dtype(ml_dtypes.bfloat16)}
# Name of each tensor -> its axes; every letter has one size throughout a file.
# A file holds either `embeddings` or `keys` and `values`.
AXES = {
    'embeddings': 'NkD', 'keys': 'NLkKH', 'values': 'NLkKH',
    'lengths': 'N', 'positions': 'Nk', 'text_start': 'N', 'special': 'D',
}  # fmt: skip
_EMBEDDINGS, _KEY_VALUES = ('embeddings',), ('keys', 'values')
FLOATS = (*_EMBEDDINGS, *_KEY_VALUES, 'special')
_PER_CONTEXT = ('source_tokens', 'ids')


@dataclasses.dataclass(frozen=True)
class ContextMetadata:
    """What a reader must know before it may use the vectors.

    Attributes:
      target: id or folder of the frozen model that reads the vectors.
      target_revision: its revision, '' where it has none.
      compressor_sha256: 64 lower-case hex digits that name the compressor which made the vectors.
      hidden_size: D of the target.
      layout: one line that says how the compressor laid out its window; for people.
      template: the prompt template the compressor was trained with, one of `config.TEMPLATES`.
      decoder_prefix: token ids that stand before the memory.
      source_tokens: per context, how many tokens were compressed.
      ids: per context, the caller's name for it.
      nesting: what a coarser ratio keeps, where the compressor serves several.
    """

    target: str
    target_revision: str
    compressor_sha256: str
    hidden_size: int
    layout: str
    template: str
    decoder_prefix: tuple[int, ...]
    source_tokens: tuple[int, ...]
    ids: tuple[str, ...]
    nesting: Nesting | None = None

    def __post_init__(self):
        for name in ('target', 'target_revision', 'layout'):
            require(isinstance(getattr(self, name), str), name, getattr(self, name), 'a string')
        require(bool(self.target), 'target', self.target, 'the id of the target model')
        sha = self.compressor_sha256
        digits = isinstance(sha, str) and re.fullmatch('[0-9a-f]{64}', sha)
        require(bool(digits), 'compressor_sha256', sha, '64 lower-case hex digits')
        require(is_int(self.hidden_size, 1), 'hidden_size', self.hidden_size, 'an integer of at least 1')
        require(self.template in TEMPLATES, 'template', self.template, 'one of ' + ', '.join(TEMPLATES))
        for name, least in (('decoder_prefix', 0), ('source_tokens', 1)):
            value = getattr(self, name)
            valid = isinstance(value, tuple) and all(is_int(item, least) and item < 2**31 for item in value)
            require(valid, name, value, f'integers of at least {least}, below 2**31')
        valid = isinstance(self.ids, tuple) and all(isinstance(item, str) for item in self.ids)
        require(valid, 'ids', self.ids, 'strings')


@dataclasses.dataclass(frozen=True, eq=False)
class StoredContexts:
    """N compressed contexts, checked: an instance that exists keeps every rule of the format.

    Attributes:
      embeddings: [N, k, D] float32 or bfloat16 memory vectors; slots from `lengths` on are zero. None where there
        are `keys` and `values`.
      lengths: [N] int32 number of vectors of each context, 1 to k.
      positions: [N, k] int32 position ids counted from the start of the memory, strictly increasing over
        a context's vectors; slots from `lengths` on are zero.
      text_start: [N] int32 position id of the special vector, above the last vector's.
      special: [D] the vector that follows the memory, in the dtype of `embeddings`.
      metadata: the rest.
      keys, values: [N, L, k, K, H] memory of every layer instead of `embeddings`, under the same rules; keys as before
        RoPE.

    Raises:
      PicJaxError: a field that breaks a rule, by name.
    """

    embeddings: np.ndarray | None
    lengths: np.ndarray
    positions: np.ndarray
    text_start: np.ndarray
    special: np.ndarray
    metadata: ContextMetadata
    keys: np.ndarray | None = None
    values: np.ndarray | None = None

    def __post_init__(self):
        arrays = tensors_of(self)
        check_names(set(arrays))
        check_shapes({name: array.shape for name, array in arrays.items()}, self.metadata)
        for name, array in arrays.items():
            valid = tuple(VECTOR_DTYPES.values()) if name in FLOATS else (np.dtype(np.int32),)
            require(array.dtype in valid, f'dtype of {name}', str(array.dtype), ' or '.join(map(str, valid)))
        for name, array in self.vectors.items():
            require(
                self.special.dtype == array.dtype, 'dtype of special', str(self.special.dtype),
                f'{array.dtype}, the dtype of {name}',
            )  # fmt: skip
        k = self.positions.shape[1]
        row = _first((self.lengths < 1) | (self.lengths > k))
        if row is not None:
            raise PicJaxError(f'lengths[{row}]={self.lengths[row]} is not valid: expected 1 to k={k}')
        valid_Nk = np.arange(k) < self.lengths[:, None]
        steps_Nk = np.diff(self.positions, axis=1, prepend=np.int32(-1))  # the first id is at least 0
        last_N = np.max(np.where(valid_Nk, self.positions, -1), axis=1)
        rules = []
        for name, array in self.vectors.items():
            numbers_Nkx = np.moveaxis(array, slot_axis(name), 1).reshape(len(array), k, -1)
            rules += [
                (name, ~np.isfinite(numbers_Nkx).all(axis=(1, 2)), 'finite numbers only'),
                (name, (numbers_Nkx != 0).any(axis=2) & ~valid_Nk, 'zero in padding slots'),
            ]
        rules += (
            ('positions', (self.positions != 0) & ~valid_Nk, 'zero in padding slots'),
            ('positions', ((steps_Nk < 1) | (self.positions < 0)) & valid_Nk, 'ids of at least 0 that rise strictly'),
            ('text_start', self.text_start <= last_N, 'an id above the last position'),
        )
        for name, broken, expected in rules:
            row = _first(broken if broken.ndim == 1 else broken.any(axis=1))
            if row is not None:
                raise PicJaxError(f'{name}[{row}] is not valid: expected {expected}')
        if not np.isfinite(self.special).all():
            raise PicJaxError('special is not valid: expected finite numbers only')
        if self.metadata.nesting:
            self.metadata.nesting.check(self.metadata.source_tokens, self.lengths, self.positions)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        """What the slots hold, by field name; axis k is where `AXES` says."""
        return {name: array for name, array in tensors_of(self).items() if 'k' in AXES[name] and name in FLOATS}


def _first(broken_N: np.ndarray) -> int | None:
    return int(np.argmax(broken_N)) if broken_N.any() else None


def tensors_of(stored: StoredContexts) -> dict[str, np.ndarray]:
    """The tensors of its file."""
    arrays = {name: getattr(stored, name) for name in AXES}
    return {name: array for name, array in arrays.items() if array is not None}


def slot_axis(name: str) -> int:
    """Where the slots of a tensor of vectors are."""
    return AXES[name].index('k')


def check_names(names: set[str]) -> None:
    """Raises PicJaxError unless these are the tensors of one kind of memory and all that goes with it."""
    other = _KEY_VALUES if 'embeddings' in names or not names & set(_KEY_VALUES) else _EMBEDDINGS
    missing, extra = sorted(set(AXES) - set(other) - names), sorted((names - set(AXES)) | (names & set(other)))
    if missing or extra:
        raise PicJaxError(f'tensors are not valid: missing {missing}, unknown {extra}')


def check_shapes(shapes: dict[str, Sequence[int]], metadata: ContextMetadata) -> None:
    """Raises PicJaxError unless all shapes and the metadata agree on every size, each at least 1."""
    sizes = {'D': metadata.hidden_size, 'N': len(metadata.ids)}
    require(
        len(metadata.source_tokens) == sizes['N'], 'source_tokens', metadata.source_tokens,
        f'one per context, {sizes["N"]} as in ids',
    )  # fmt: skip
    for name, given in shapes.items():
        axes, shape = AXES[name], tuple(given)
        require(len(shape) == len(axes) and min(shape) >= 1, f'shape of {name}', shape, f'[{", ".join(axes)}]')
        expected = tuple(sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=True))
        where = f'{expected} with hidden_size={sizes["D"]} and {sizes["N"]} ids'
        require(shape == expected, f'shape of {name}', shape, where)


def from_memory(memory: 'Memory', special: Any, metadata: ContextMetadata) -> StoredContexts:
    """The compressed contexts of a batch, padding beyond the longest one dropped.

    Args:
      memory: of B contexts, in float32 or bfloat16; True slots come first in every row.
      special: [D] vector that follows the memory; cast to the dtype of the memory.
      metadata: with B ids and source token counts.

    Raises:
      PicJaxError: a row with an invalid slot before a valid one, or anything the format refuses.
    """
    valid_Nk = np.asarray(memory.valid)
    gap_N = np.asarray((np.diff(valid_Nk.astype(np.int8), axis=1) > 0).any(axis=1))
    row = _first(gap_N)
    if row is not None:
        raise PicJaxError(f'valid[{row}] is not valid: expected True slots before False ones')
    vectors = {name: np.asarray(array) for name, array in memory.vectors.items()}
    for name, array in vectors.items():
        kept = np.where(np.expand_dims(valid_Nk, tuple(range(2, array.ndim))), array, np.zeros((), array.dtype))
        vectors[name] = np.moveaxis(kept, 1, slot_axis(name))
    return _trimmed(
        vectors,
        lengths=valid_Nk.sum(axis=1, dtype=np.int32),
        positions=np.where(valid_Nk, np.asarray(memory.positions), np.int32(0)),
        text_start=np.asarray(memory.text_start),
        special=np.asarray(special).astype(kept.dtype),
        metadata=metadata,
    )


def _trimmed(
    vectors: dict[str, np.ndarray], *, lengths: np.ndarray, positions: np.ndarray, **rest: Any
) -> StoredContexts:
    k = int(lengths.max(initial=1))
    cut: dict[str, Any] = {name: array if array.shape[axis] <= k else array.take(range(k), axis)
           for name, array in vectors.items() for axis in [slot_axis(name)]}  # fmt: skip
    return StoredContexts(**({'embeddings': None} | cut), lengths=lengths, positions=positions[:, :k], **rest)


def to_memory(stored: StoredContexts) -> 'Memory':
    """The contexts as the `Memory` a decoder takes: B = N rows of k slots."""
    import jax.numpy as jnp

    from pic_jax.memory import Memory

    vectors = {name: jnp.asarray(np.moveaxis(array, slot_axis(name), 1)) for name, array in stored.vectors.items()}
    return Memory(
        **({'embeddings': None} | vectors),
        positions=jnp.asarray(stored.positions),
        valid=jnp.asarray(np.arange(stored.positions.shape[1]) < stored.lengths[:, None]),
        text_start=jnp.asarray(stored.text_start),
    )


def check_target(
    stored: StoredContexts, hidden_size: int, target: str | None = None, revision: str | None = None
) -> None:
    """Refuses contexts that were made for another model.

    Args:
      stored: the contexts.
      hidden_size: D of the model that is about to read them.
      target: its id, or None where only the size is known.
      revision: its revision, or None where it is not known.

    Raises:
      PicJaxError: one of them differs.
    """
    have = {'hidden_size': hidden_size, 'target': target, 'target_revision': revision}
    for name, value in have.items():
        made_for = getattr(stored.metadata, name)
        if value is not None and value != made_for:
            raise PicJaxError(
                f'stored contexts were made for {name}={made_for!r}, this model has {value!r}: '
                'use the model they were made for, or compress again'
            )


def select(stored: StoredContexts, indices: Sequence[int]) -> StoredContexts:
    """The contexts at `indices` (0 to N-1, at least one), in that order; k shrinks to the longest of them.

    Raises:
      PicJaxError: no index, or one out of range.
    """
    rows = [int(index) for index in indices]
    require(bool(rows), 'rows', rows, 'at least one')
    for row in rows:
        require(0 <= row < len(stored), 'row', row, f'0 to {len(stored) - 1}')
    kept: dict[str, Any] = {name: tuple(getattr(stored.metadata, name)[row] for row in rows) for name in _PER_CONTEXT}
    return _trimmed(
        {name: array[rows] for name, array in stored.vectors.items()},
        lengths=stored.lengths[rows],
        positions=stored.positions[rows],
        text_start=stored.text_start[rows],
        special=stored.special,
        metadata=dataclasses.replace(stored.metadata, **kept),
    )


def merge(parts: Sequence[StoredContexts], names: Sequence[str] | None = None) -> StoredContexts:
    """All contexts of all parts, in order; k is the longest context of any.

    Args:
      parts: at least one; they agree on the special vector, the dtype and all metadata but `ids` and
        `source_tokens`.
      names: what messages call the parts (file names); `part 1`, `part 2` ... where None.

    Raises:
      PicJaxError: no part, or two that do not go together (the message says in what).
    """
    require(bool(parts), 'parts', list(parts), 'at least one')
    names = names or [f'part {number}' for number in range(1, len(parts) + 1)]
    first = parts[0]
    for name, part in zip(names[1:], parts[1:], strict=True):
        for key, value in _shared(part).items():
            if value != _shared(first)[key]:
                raise PicJaxError(
                    f'{name}: {key}={value!r} differs from {_shared(first)[key]!r} in {names[0]}: '
                    'only contexts of one compressor and one target can be merged'
                )
        if part.special.tobytes() != first.special.tobytes():
            raise PicJaxError(f'{name}: special differs from that of {names[0]}: expected the same vector')
    k = max(part.positions.shape[1] for part in parts)
    joined: dict[str, Any] = {name: sum((getattr(part.metadata, name) for part in parts), ()) for name in _PER_CONTEXT}
    return _trimmed(
        {name: _joined([part.vectors[name] for part in parts], k, slot_axis(name)) for name in first.vectors},
        lengths=np.concatenate([part.lengths for part in parts]),
        positions=_joined([part.positions for part in parts], k, 1),
        text_start=np.concatenate([part.text_start for part in parts]),
        special=first.special,
        metadata=dataclasses.replace(first.metadata, **joined),
    )


def _shared(stored: StoredContexts) -> dict[str, Any]:
    """What all contexts of a file have in common, apart from the special vector."""
    values = dataclasses.asdict(stored.metadata) | {
        'dtype': str(stored.special.dtype),
        'slot_shapes': {name: _slot_shape(name, array) for name, array in stored.vectors.items()},
    }
    return {name: value for name, value in values.items() if name not in _PER_CONTEXT}


def _slot_shape(name: str, array: np.ndarray) -> list[int]:
    return [size for axis, size in zip(AXES[name], array.shape, strict=True) if axis not in 'Nk']


def _joined(arrays: list[np.ndarray], k: int, axis: int) -> np.ndarray:
    """The rows of all arrays, with zeros appended on `axis` up to size k."""
    shape = [sum(map(len, arrays)), *arrays[0].shape[1:]]
    shape[axis] = k
    out, first = np.zeros(shape, arrays[0].dtype), 0
    for array in arrays:
        rows = np.moveaxis(out[first : first + len(array)], axis, 1)
        rows[:, : array.shape[axis]] = np.moveaxis(array, axis, 1)
        first += len(array)
    return out


def describe(stored: StoredContexts) -> dict[str, Any]:
    """A JSON-ready description.

    Returns:
      The metadata that all contexts share, `dtype`, `slot_shapes` (of what one slot holds, by tensor), and `contexts`:
      per context `row`, `id`, `source_tokens`, `k`, `ratio` (source tokens per slot) and `bytes` (of its slots).
    """
    numbers = sum(math.prod(_slot_shape(name, array)) for name, array in stored.vectors.items())
    slot_bytes = numbers * stored.special.itemsize
    rows = zip(stored.metadata.ids, stored.metadata.source_tokens, stored.lengths.tolist(), strict=True)
    return {name: value for name, value in _shared(stored).items() if value is not None} | {
        'contexts': [
            {'row': row, 'id': id_, 'source_tokens': n, 'k': k, 'ratio': n / k, 'bytes': k * slot_bytes}
            for row, (id_, n, k) in enumerate(rows)
        ],
    }
