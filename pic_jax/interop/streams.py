"""A stream's state on disk, so that a text can go on being compressed later (docs/FORMATS.md, Stream state)."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pic_jax.compressors.streaming import StreamState
from pic_jax.config.checks import is_whole_number
from pic_jax.errors import PicJaxError
from pic_jax.files import replacing
from pic_jax.models.decoder import KeyValues
from pic_jax.tensors import check_finite

FORMAT, VERSION = 'pic-stream', '1'


def write(path: str | os.PathLike, state: StreamState, compressor_sha256: str) -> None:
    """Writes the state under a temporary name, then moves it into place."""
    tensors = {'pending': state.pending}
    if state.past is not None:
        tensors |= {
            name: np.ascontiguousarray(array[:, :, : state.past_count])
            for name, array in zip(('keys', 'values'), map(np.asarray, state.past), strict=True)
        }
    metadata = {'format': FORMAT, 'format_version': VERSION, 'compressor_sha256': compressor_sha256,
                'num_tokens': json.dumps(state.num_tokens)}  # fmt: skip
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def read(path: str | os.PathLike, empty: StreamState, compressor_sha256: str) -> StreamState:
    """Reads a state for the compressor whose fresh state (`streaming.start`) is `empty`.

    Raises:
      PicJaxError: the file is not readable, not a stream state, or of another compressor.
    """
    try:
        with safe_open(path, 'np') as file:
            metadata = file.metadata() or {}
            _check(path, 'format', metadata.get('format'), FORMAT)
            _check(path, 'format_version', metadata.get('format_version'), VERSION)
            _check(path, 'compressor_sha256', metadata.get('compressor_sha256'), compressor_sha256)
            names = {'pending'} if empty.past is None else {'pending', 'keys', 'values'}
            _check(path, 'tensors', set(file.keys()), names)
            pending = file.get_slice('pending')
            _check(path, 'dtype and rank of pending', (pending.get_dtype(), len(pending.get_shape())), ('I32', 1))
            if empty.past is not None:
                _check_past(path, file, empty.past)
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise PicJaxError(f'{path}: cannot be read ({error})') from error
    pending = tensors['pending']
    if (pending < 0).any():
        raise PicJaxError(f'{path}: pending holds {pending.min()}: expected token ids of at least 0')
    num_tokens = metadata.get('num_tokens', '')
    if not is_whole_number(num_tokens):
        raise PicJaxError(f'{path}: num_tokens={num_tokens[:40]!r} is not valid: expected a whole number')
    if empty.past is None:
        return StreamState(None, 0, pending, int(num_tokens))
    for name in ('keys', 'values'):
        check_finite(Path(path), name, tensors[name])
    count = tensors['keys'].shape[2]
    if count > int(num_tokens):
        raise PicJaxError(f'{path}: keys of {count} slots are not valid: num_tokens={num_tokens} have at most as many')
    # An empty past still has room for a chunk, as `start` makes it.
    room = max(empty.past.k.shape[2] - count, 0)
    pad = ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))
    past = KeyValues(*(jnp.asarray(np.pad(tensors[name], pad)) for name in ('keys', 'values')))
    return StreamState(past, count, pending, int(num_tokens))


def _check_past(path, file, past: KeyValues) -> None:
    L, B, _, K, H = past.k.shape
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in ('keys', 'values')}
    dtypes = {file.get_slice(name).get_dtype() for name in ('keys', 'values')}
    _check(path, 'dtypes of keys and values', dtypes, {'BF16' if past.k.dtype == jnp.bfloat16 else 'F32'})
    _check(path, 'shape of values', shapes['values'], shapes['keys'])
    shape = shapes['keys']
    if len(shape) != 5 or (*shape[:2], *shape[3:]) != (L, B, K, H):
        raise PicJaxError(f'{path}: keys of shape {shape} are not valid: expected ({L}, {B}, slots, {K}, {H})')


def _check(path, key: str, value, valid) -> None:
    if value != valid:
        raise PicJaxError(f'{path}: {key}={value!r} is not valid: expected {valid!r}')
