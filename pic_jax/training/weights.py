"""A compressor's trained weights in one file, beside the config.json that says what they are (docs/FORMATS.md)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors.numpy import save_file

from pic_jax.config import RunConfig
from pic_jax.errors import PicJaxError
from pic_jax.files import folder_to_fill, replacing, sha256
from pic_jax.models.hf_files import inside
from pic_jax.tensors import read_tensors
from pic_jax.training.workdir import CONFIG, write_config

NAME = 'compressor.safetensors'
FORMAT, VERSION = 'pic-compressor', '1'


def write_weights(folder: Path, config: RunConfig, trainable: Any, dtype: str = 'bfloat16') -> None:
    """Writes the weights in that dtype and config.json; makes the folder.

    Raises:
      PicJaxError: the folder is the workdir of a run, whose checkpoints the file would hide, or of something else that
        has a config.json, as a model; or it cannot be written. A new one is not left behind.
    """
    if (folder / 'checkpoints').exists():
        raise PicJaxError(f'{folder} is the workdir of a run: expected another folder to save to')
    if (folder / CONFIG).exists() and not (folder / NAME).exists():
        raise PicJaxError(f'{folder / CONFIG} is not of a saved compressor: expected another folder to save to')
    tensors = {name: np.asarray(leaf.astype(dtype)) for name, leaf in named(trainable).items()}
    with folder_to_fill(folder) as part:
        with replacing(part / NAME) as temporary:
            save_file(tensors, temporary, {'format': FORMAT, 'format_version': VERSION})
        write_config(part, config)


def read_weights(folder: Path, like: Any) -> Any:
    """Reads weights into a tree of the shapes (and as the float32) of `like`.

    Raises:
      PicJaxError: the file is not readable, not a compressor's, of another one, or a link that leaves the folder.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in named(like).items()}
    found = read_tensors(inside(folder, folder / NAME), wanted, {'format': FORMAT, 'format_version': VERSION})
    leaves = [jnp.asarray(found[name], jnp.float32) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def weights_sha256(folder: Path) -> str | None:
    """Hex digits that name the weights in a folder; None where it has no such file, as the workdir of a run."""
    return sha256(folder / NAME) if (folder / NAME).is_file() else None


def named(tree: Any) -> dict[str, Any]:
    """'lora.layers.mlp.up_proj.lora_A' -> leaf."""
    return {'.'.join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
