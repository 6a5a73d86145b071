"""Stored contexts at a coarser ratio, by dropping vectors: exactly what the compressor would make there."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.interop.contexts import StoredContexts, slot_axis
from pic_jax.nested import kept_slots


def shrink(stored: StoredContexts, ratio: int, name: str = 'the contexts') -> StoredContexts:
    """The contexts as their nested compressor gives them at `ratio`, within rounding. Needs no model.

    Args:
      name: what messages call the contexts (a file name).

    Raises:
      PicJaxError: their compressor is not nested, or its vectors depend on the ratio (the message says how).
      ConfigError: the contexts have no vectors for that ratio.
    """
    nesting = stored.metadata.nesting
    if nesting is None:
        raise PicJaxError(f'{name}: made by a compressor of one ratio: expected one trained with compressor.ratios')
    again = f'compress the texts again (pic-jax compress --workdir=DIR FILE --ratio={ratio} --out=OUT)'
    smaller = [served for served in nesting.ratios if served >= nesting.ratio]
    if ratio not in smaller:
        expected = ', '.join(map(str, smaller))
        raise ConfigError(f'{name}: ratio={ratio} is not valid: from {nesting.ratio}, contexts shrink to {expected}')
    if nesting.why_not_shrink:
        raise PicJaxError(f'{name}: shrinking is not compressing here, as {nesting.why_not_shrink}: {again}')
    kept = [kept_slots(nesting.chunks(tokens), nesting.ratio, ratio) for tokens in stored.metadata.source_tokens]
    lengths = np.array([len(slots) for slots in kept], np.int32)
    place_1k = np.arange(lengths.max(), dtype=np.int32)[None]
    return StoredContexts(
        **{'embeddings': None} | {name: _take(array, slot_axis(name), kept) for name, array in stored.vectors.items()},
        lengths=lengths,
        positions=np.where(place_1k < lengths[:, None], place_1k, np.int32(0)),
        text_start=lengths.copy(),
        special=stored.special,
        metadata=dataclasses.replace(stored.metadata, nesting=dataclasses.replace(nesting, ratio=ratio)),
    )


def _take(array: np.ndarray, axis: int, kept: Sequence[np.ndarray]) -> np.ndarray:
    """The kept slots of each context, padded with zeros to the longest."""
    slots_Nkx = np.moveaxis(array, axis, 1)
    taken_Nkx = np.zeros((len(kept), max(map(len, kept)), *slots_Nkx.shape[2:]), array.dtype)
    for row, slots in enumerate(kept):
        taken_Nkx[row, : len(slots)] = slots_Nkx[row, slots]
    return np.moveaxis(taken_Nkx, 1, axis)
