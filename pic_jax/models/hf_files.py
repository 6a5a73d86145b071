"""The files of a Hugging Face folder. Importing this module needs no jax."""

import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pic_jax.errors import PicJaxError
from pic_jax.files import read_json
from pic_jax.models.hub import TOKENIZER_FILES

# Small files beside the weights, which go where they go.
BESIDE = (*TOKENIZER_FILES, 'generation_config.json', '*.model')
_SHARD_NAME = re.compile(r'[A-Za-z0-9._-]+\.safetensors')


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor: model.safetensors, or the shards that its index names.

    Raises:
      PicJaxError: a file is missing or not readable, or the index is not valid or names a file outside the folder,
        also by a symbolic link.
    """
    index = folder / 'model.safetensors.index.json'
    if not index.is_file():
        single = inside(folder, folder / 'model.safetensors')
        return dict.fromkeys(open_file(single).keys(), single)
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict):
        raise PicJaxError(f'{index}: weight_map is missing')
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD_NAME.fullmatch(file):
            raise PicJaxError(f'{index}: {name} is in {file!r}, which is not the name of a shard in this folder')
    shards = {file: inside(folder, folder / file) for file in set(weight_map.values())}
    return {name: shards[file] for name, file in weight_map.items()}


def inside(folder: Path, file: Path) -> Path:
    """`file`, unless it is a symbolic link that leaves its folder.

    Links of the Hub's cache, from `snapshots/COMMIT/` to `blobs/` beside `snapshots/`, are within bounds.

    Raises:
      PicJaxError: it leaves the folder.
    """
    try:
        real, target = folder.resolve(), file.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself is the latter
        raise PicJaxError(f'{file}: cannot be followed ({error})') from error
    bounds = [real, real.parents[1] / 'blobs'] if real.parent.name == 'snapshots' else [real]
    if not any(target.is_relative_to(bound) for bound in bounds):
        raise PicJaxError(f'{file} is a link to {target}, which is outside {folder}: expected a file in it')
    return file


def copy_beside(source: Path, out: Path) -> None:
    """Copies the small files of a model's folder, config.json among them.

    Raises:
      PicJaxError: one is a link that leaves the folder.
    """
    for file in {file for pattern in BESIDE for file in source.glob(pattern)}:
        shutil.copyfile(inside(source, file), out / file.name)  # a link could name any file of this machine


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
