"""Trained parameters of a compressor as one safetensors file, for shipping without a checkpoint."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pic_jax.errors import PicJaxError
from pic_jax.files import replacing

FILE = 'compressor.safetensors'


def write_trainable(folder: Path, trainable: Any) -> None:
    """Writes FOLDER/compressor.safetensors; a tensor is named by its path, 'lora/layers/...'."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trainable)}
    with replacing(folder / FILE) as temporary:
        save_file(tensors, temporary)


def read_trainable(folder: Path, like: Any) -> Any:
    """The parameters in FOLDER/compressor.safetensors, for a tree of arrays or abstract shapes like it.

    Raises:
      PicJaxError: the file cannot be read, or a tensor is missing, unknown or of another shape.
    """
    path = folder / FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PicJaxError(f'{path}: cannot be read ({error})') from error
    wanted = {_name(place): leaf.shape for place, leaf in jax.tree_util.tree_leaves_with_path(like)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise PicJaxError(f'{path}: tensor {name} has shape {found.get(name)}, expected {wanted.get(name)}')
    return jax.tree_util.tree_map_with_path(lambda place, leaf: jnp.asarray(tensors[_name(place)], leaf.dtype), like)


def _name(path: tuple[Any, ...]) -> str:
    return '/'.join(key.key for key in path)
