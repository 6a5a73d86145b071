"""Reading small text files, and writing files and folders so that they appear when they are whole."""

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pic_jax.errors import PicJaxError

_FAILURES = (OSError, SafetensorError)  # a full disk is the latter where safetensors writes the file


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
      PicJaxError: the file is missing or cannot be read, is not JSON, or not an object.
    """
    try:
        if not path.is_file():
            raise PicJaxError(f'{path}: no such file')
        values = json.loads(path.read_text('utf-8'))
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be read: {error.strerror}') from error
    except RecursionError as error:
        raise PicJaxError(f'{path}: not valid JSON (nested too deeply)') from error
    except ValueError as error:
        raise PicJaxError(f'{path}: not valid JSON ({error})') from error
    if not isinstance(values, dict):
        raise PicJaxError(f'{path}: expected a JSON object')
    return values


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex.

    Raises:
      OSError: it cannot be read.
    """
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, then moves the finished file into place.

    Raises:
      PicJaxError: the place cannot be written; what was there is kept.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')  # hosts share folders, and process ids
    try:
        try:
            yield temporary
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except _FAILURES as error:
        raise PicJaxError(f'{path}: cannot be written: {_reason(error)}') from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder beside `folder` to fill, then renames it; after a failure nothing is left.

    Raises:
      PicJaxError: the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as temporary:
            part = Path(temporary) / folder.name
            part.mkdir()
            yield part
            part.rename(folder)
    except PicJaxError as error:  # of a file in the folder: named as it would have been in the end
        raise type(error)(str(error).replace(str(part), str(folder))) from error
    except _FAILURES as error:
        raise PicJaxError(f'{folder}: cannot be written ({_reason(error)})') from error


def folder_to_fill(folder: Path) -> contextlib.AbstractContextManager[Path]:
    """`new_folder` where there is none yet; else the folder itself, whose files are replaced one by one."""
    return contextlib.nullcontext(folder) if folder.exists() else new_folder(folder)


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as `replacing` does; makes its folder.

    Raises:
      PicJaxError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be written: {error.strerror}') from error
    with replacing(path) as temporary:
        temporary.write_text(text, 'utf-8')
