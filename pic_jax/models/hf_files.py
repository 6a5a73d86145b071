"""The safetensors files of a Hugging Face folder. Importing this module needs no jax."""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pic_jax.errors import PicJaxError
from pic_jax.files import read_json

_SHARD_NAME = re.compile(r'[A-Za-z0-9._-]+\.safetensors')


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor: model.safetensors, or the shards that its index names.

    Raises:
      PicJaxError: a file is missing or not readable, or the index is not valid or names a file outside the folder.
    """
    index = folder / 'model.safetensors.index.json'
    if not index.is_file():
        single = folder / 'model.safetensors'
        return dict.fromkeys(open_file(single).keys(), single)
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict):
        raise PicJaxError(f'{index}: weight_map is missing')
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD_NAME.fullmatch(file):
            raise PicJaxError(f'{index}: {name} is in {file!r}, which is not the name of a shard in this folder')
    return {name: folder / file for name, file in weight_map.items()}


def open_file(path: Path) -> Any:
    """A safetensors file, open for reading numpy arrays.

    Raises:
      PicJaxError: it is missing or not readable.
    """
    if not path.is_file():
        raise PicJaxError(f'{path}: no such file')
    try:
        return safe_open(path, 'np')
    except SafetensorError as error:
        raise PicJaxError(f'{path}: not a readable safetensors file ({error})') from error
