"""Reading and writing small text files safely."""

import json
import os
from pathlib import Path
from typing import Any

from pic_jax.errors import PicJaxError


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
      PicJaxError: the file is missing, not JSON, or not an object.
    """
    if not path.is_file():
        raise PicJaxError(f'{path}: no such file')
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise PicJaxError(f'{path}: not valid JSON ({error})') from error
    if not isinstance(values, dict):
        raise PicJaxError(f'{path}: expected a JSON object')
    return values


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name in the same folder, then moves the file into place; makes the folder.

    Raises:
      PicJaxError: the place cannot be written; what was there is kept.
    """
    temporary = path.with_name(path.name + '.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        raise PicJaxError(f'{path}: cannot be written ({error.strerror})') from error
