"""The tensors of a safetensors file, checked before one of them is read."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from pic_jax.errors import PicJaxError


def read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """All tensors of a file, by name.

    Args:
      shapes: of every tensor that the file must have. metadata: entries that its header must have.

    Raises:
      PicJaxError: the file cannot be read or says that it is something else, or a tensor is missing, left over or
        misshaped.
    """
    try:
        with safe_open(path, 'np') as file:
            said = file.metadata() or {}
            for key, valid in (metadata or {}).items():
                if said.get(key) != valid:
                    raise PicJaxError(f'{path}: {key} is {said.get(key)!r}, expected {valid!r}')
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(found.keys() | shapes.keys()):
                if found.get(name) != shapes.get(name):
                    raise PicJaxError(f'{path}: {name} has shape {found.get(name)}, expected {shapes.get(name)}')
            return {name: file.get_tensor(name) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise PicJaxError(f'{path}: cannot be read ({error})') from error
