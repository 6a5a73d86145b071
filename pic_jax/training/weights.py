"""A compressor's trained weights in one file, beside the config.json that says what they are (docs/FORMATS.md)."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors.numpy import save_file

from pic_jax.config import RunConfig
from pic_jax.errors import PicJaxError
from pic_jax.files import replacing
from pic_jax.tensors import read_tensors
from pic_jax.training.workdir import write_config

NAME = 'compressor.safetensors'
FORMAT, VERSION = 'pic-compressor', '1'


def write_weights(folder: Path, config: RunConfig, trainable: Any, dtype: str = 'bfloat16') -> None:
    """Writes config.json and the weights in that dtype; makes the folder.

    Raises:
      PicJaxError: the folder is the workdir of a run, whose checkpoints the file would hide.
    """
    if (folder / 'checkpoints').exists():
        raise PicJaxError(f'{folder} is the workdir of a run: expected another folder to save to')
    write_config(folder, config)
    tensors = {name: np.asarray(leaf.astype(dtype)) for name, leaf in named(trainable).items()}
    with replacing(folder / NAME) as temporary:
        save_file(tensors, temporary, {'format': FORMAT, 'format_version': VERSION})


def read_weights(folder: Path, like: Any) -> Any:
    """Reads weights into a tree of the shapes (and as the float32) of `like`.

    Raises:
      PicJaxError: the file is not readable, not a compressor's, or of another one.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in named(like).items()}
    found = read_tensors(folder / NAME, wanted, {'format': FORMAT, 'format_version': VERSION})
    leaves = [jnp.asarray(found[name], jnp.float32) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def weights_sha256(folder: Path) -> str | None:
    """Hex digits that name the weights in a folder; None where it has no such file, as the workdir of a run."""
    if not (folder / NAME).is_file():
        return None
    with (folder / NAME).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def named(tree: Any) -> dict[str, Any]:
    """'lora.layers.mlp.up_proj.lora_A' -> leaf."""
    return {'.'.join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
