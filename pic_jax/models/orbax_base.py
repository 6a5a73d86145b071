"""A frozen target as an Orbax checkpoint, stacked and transposed as the decoder has it, with its source's hashes.

Reading it needs no transposing, and every process of a pod reads its own parts.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from pic_jax import __version__
from pic_jax.config import DecoderConfig
from pic_jax.errors import PicJaxError, first_line
from pic_jax.files import new_folder, read_json, sha256, write_text
from pic_jax.models import hf
from pic_jax.models.decoder import Params
from pic_jax.models.hf_files import copy_beside, inside, tensor_files

SOURCE, PARAMS = 'source.json', 'params'
FORMAT, VERSION = 'pic-base', '1'


def is_orbax(folder: Path) -> bool:
    """Whether `from_hf` wrote the folder."""
    return (folder / SOURCE).is_file()


def from_hf(source: Path, out: Path, name: str) -> None:
    """Writes a Hugging Face folder as an Orbax base; the dtype of the tensors stays what it is.

    Args:
      name: what source.json shall call the source.

    Raises:
      PicJaxError: as `hf.read_config` and `hf.open_weights`, or `out` cannot be written.
    """
    params = hf.load_params(source, hf.read_config(source))
    files = {file.name: sha256(file) for file in sorted(set(tensor_files(source).values()))}
    values = {'format': FORMAT, 'format_version': VERSION, 'pic_jax': __version__, 'source': name, 'sha256': files}
    with new_folder(out) as part:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((part / PARAMS).absolute(), params)
        copy_beside(source, part)
        write_text(part / SOURCE, json.dumps(values, indent=2) + '\n')


def to_hf(source: Path, out: Path) -> None:
    """Writes an Orbax base as a Hugging Face folder: the tensors that it was made from, bit for bit.

    Raises:
      PicJaxError: the base is not readable, or `out` cannot be written.
    """
    config = hf.read_config(source)
    params = load(source, config)
    with new_folder(out) as part:
        copy_beside(source, part)
        hf.write_tensors(part, params, config)


def load(folder: Path, config: DecoderConfig, shardings: Any = None, dtype: Any = None) -> Params:
    """The parameters of an Orbax base.

    Args:
      shardings: a NamedSharding for every parameter; this process's first device where none are given.
      dtype: of the result; None keeps the file's.

    Raises:
      PicJaxError: it is of another format, a tensor is missing, left over, misshaped or not finite, the files are
        unreadable, or one is a link that leaves the folder.
    """
    values = read_json(folder / SOURCE)
    for key, valid in ('format', FORMAT), ('format_version', VERSION):
        if values.get(key) != valid:
            raise PicJaxError(f'{folder / SOURCE}: {key} is {values.get(key)!r}, expected {valid!r}')
    path = (folder / PARAMS).absolute()
    for file in folder.rglob('*'):  # folders that are links are not entered: what they name in here is met by itself
        inside(folder, file)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            saved = checkpointer.metadata(path).item_metadata.tree
        except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
            raise _unreadable(path, error) from error
        shapes = hf.build_params(config, lambda tensor, shape: jax.ShapeDtypeStruct(shape, 'float32'))
        _check(path, _shapes(saved), _shapes(shapes))
        placed = shardings or jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), shapes)
        wanted = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place), saved, placed
        )
        try:
            params = checkpointer.restore(path, wanted)
        except Exception as error:  # as above
            raise _unreadable(path, error) from error
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _is_finite(leaf):
            raise PicJaxError(f'{path}: {_name(key_path)} holds a number that is not finite')
    return params


@jax.jit
def _is_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='.')


def _check(path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise PicJaxError(f'{path}: {name} has shape {found.get(name)}, expected {wanted.get(name)}')


def _unreadable(path: Path, error: Exception) -> PicJaxError:
    return PicJaxError(f'{path}: cannot be read ({first_line(error)})')
