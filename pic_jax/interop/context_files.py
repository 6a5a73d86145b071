"""Files of stored contexts: compressed contexts in one .safetensors (docs/FORMATS.md has the specification).

Importing this module and reading a file need no jax.
"""

import dataclasses
import json
import os
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pic_jax.errors import PicJaxError
from pic_jax.files import replacing
from pic_jax.interop.checks import require
from pic_jax.interop.contexts import (
    AXES,
    FLOATS,
    VECTOR_DTYPES,
    ContextMetadata,
    StoredContexts,
    check_names,
    check_shapes,
    tensors_of,
)
from pic_jax.interop.nesting import Nesting

FORMAT = 'pic-context'
FORMAT_VERSION, NESTED_VERSION = '1', '2'  # 2 is 1 with the key `nesting`


def write(path: str | os.PathLike, stored: StoredContexts) -> None:
    """Writes the file; the same contexts give the same bytes. What was there stays until the new file is whole.

    Raises:
      PicJaxError: the file cannot be written.
    """
    header, body = _serialised(dataclasses.replace(stored))  # checks again: arrays can be changed in place
    with replacing(path) as temporary, temporary.open('wb') as file:
        file.write(header)
        file.write(body)


def _serialised(stored: StoredContexts) -> tuple[bytes, memoryview]:
    """The two parts of the file: safetensors with its metadata in sorted order (the library's own order is random)."""
    values = {name: value for name, value in dataclasses.asdict(stored.metadata).items() if value is not None}
    metadata = {'format': FORMAT, 'format_version': NESTED_VERSION if 'nesting' in values else FORMAT_VERSION}
    for name, value in values.items():
        metadata[name] = value if isinstance(value, str) else json.dumps(value)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors_of(stored).items()}
    blob = safetensors.numpy.save(tensors, metadata=metadata)
    end = 8 + int.from_bytes(blob[:8], 'little')
    header = json.loads(blob[8:end])
    header['__metadata__'] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text, memoryview(blob)[end:]


def read(path: str | os.PathLike) -> StoredContexts:
    """Reads a file of stored contexts and checks every field; shapes and dtypes before any tensor is loaded.

    Raises:
      PicJaxError: the file is missing, is no safetensors file, or breaks a rule of the format.
    """
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            metadata = _parse_metadata(file.metadata() or {})
            names = set(file.keys())
            check_names(names)
            slices = {name: file.get_slice(name) for name in AXES if name in names}
            for name, piece in slices.items():
                valid = tuple(VECTOR_DTYPES) if name in FLOATS else ('I32',)
                require(piece.get_dtype() in valid, f'dtype of {name}', piece.get_dtype(), ' or '.join(valid))
            check_shapes({name: piece.get_shape() for name, piece in slices.items()}, metadata)
            arrays = {name: file.get_tensor(name) for name in slices}
            return StoredContexts(**({'embeddings': None} | arrays), metadata=metadata)
    except PicJaxError as error:
        raise PicJaxError(f'{path}: {error}') from error
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read: {error.strerror or error}') from error
    except safetensors.SafetensorError as error:
        raise PicJaxError(f'{path}: not a safetensors file: {error}') from error


def _parse_metadata(values: dict[str, str]) -> ContextMetadata:
    """The metadata strings of a file as `ContextMetadata`; lists and numbers are JSON text."""
    for name, valid in (('format', (FORMAT,)), ('format_version', (FORMAT_VERSION, NESTED_VERSION))):
        require(values.get(name) in valid, f'metadata {name}', values.get(name), ' or '.join(map(repr, valid)))
    hints = {field.name: field.type for field in dataclasses.fields(ContextMetadata)}
    if values['format_version'] == FORMAT_VERSION:
        del hints['nesting']
    missing, extra = sorted(set(hints) - set(values)), sorted(set(values) - set(hints) - {'format', 'format_version'})
    if missing or extra:
        raise PicJaxError(f'metadata is not valid: missing {missing}, unknown {extra}')
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        fields[name] = values[name]
        if name == 'nesting':
            fields[name] = Nesting.parse(values[name])
        elif hint is not str:
            try:
                value = json.loads(values[name])
            except (ValueError, RecursionError):
                require(False, f'metadata {name}', values[name], 'JSON')
            fields[name] = tuple(value) if isinstance(value, list) else value
    return ContextMetadata(**fields)
