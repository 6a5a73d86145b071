"""Tensors of a safetensors file, checked before one of them is read; and token ids, before they are looked up."""

from collections.abc import Collection, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs)
import numpy as np
from safetensors import SafetensorError, safe_open

from pic_jax.errors import PicJaxError

# Dtypes of weights, as safetensors names them -> the integer of the same size, and its bits that are the exponent.
FLOATS = {'F32': (np.uint32, 0x7F800000), 'BF16': (np.uint16, 0x7F80), 'F16': (np.uint16, 0x7C00)}
_BLOCK = 2**18  # numbers that are looked at together: few enough for a processor's cache


def read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """All tensors of a file, by name.

    Args:
      shapes: of every tensor that the file must have. metadata: entries that its header must have.

    Raises:
      PicJaxError: the file cannot be read or says that it is something else, or a tensor is missing, left over or
        misshaped, is not of `FLOATS`, or holds a number that is not finite.
    """
    return _read(path, {name: (shape, tuple(FLOATS)) for name, shape in shapes.items()}, metadata or {})


def read_like(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of a file that must have the names, shapes and dtypes (float32 or int32) of `arrays`.

    Raises:
      PicJaxError: as `read_tensors`.
    """
    named = {'float32': ('F32',), 'int32': ('I32',)}
    return _read(path, {name: (array.shape, named[str(array.dtype)]) for name, array in arrays.items()}, {})


def _read(
    path: Path, wanted: Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]], metadata: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Tensors of these shapes, each of one of its dtypes."""
    try:
        with safe_open(path, 'np') as file:
            said = file.metadata() or {}
            for key, valid in metadata.items():
                if said.get(key) != valid:
                    raise PicJaxError(f'{path}: {key} is {said.get(key)!r}, expected {valid!r}')
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(found.keys() | wanted.keys()):
                shape, dtypes = wanted.get(name, (None, ()))
                if found.get(name) != shape:
                    raise PicJaxError(f'{path}: {name} has shape {found.get(name)}, expected {shape}')
                check_dtype(path, name, file.get_slice(name).get_dtype(), dtypes)
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise PicJaxError(f'{path}: cannot be read ({error})') from error
    for name, tensor in tensors.items():
        if tensor.dtype != np.int32:
            check_finite(path, name, tensor)
    return tensors


def check_dtype(path: Path, name: str, dtype: str, valid: Collection[str] = tuple(FLOATS)) -> None:
    """Raises PicJaxError unless a tensor's dtype, as safetensors names it, is one of `valid`."""
    if dtype not in valid:
        raise PicJaxError(f'{path}: {name} has dtype {dtype}, expected {" or ".join(valid)}')


def check_finite(path: Path, name: str, tensor: np.ndarray) -> None:
    """Raises PicJaxError where a tensor of one of `FLOATS` holds a NaN or an infinity.

    Their exponents have all bits set. That is a test of integers, which costs less than reading the file.
    """
    kind = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}[str(tensor.dtype)]
    integer, exponent = FLOATS[kind]
    bits = np.ascontiguousarray(tensor).reshape(-1).view(integer)
    for first in range(0, len(bits), _BLOCK):
        if (bits[first : first + _BLOCK] & integer(exponent)).max() == exponent:
            raise PicJaxError(f'{path}: {name} holds a number that is not finite')


def check_ids(tokens: np.ndarray, vocab_size: int, where: str = '') -> None:
    """Refuses ids beyond the model's vocabulary, whose embedding jax would make up.

    Args:
      where: begins the message, as 'notes.txt:3: '.

    Raises:
      PicJaxError: there is one.
    """
    beyond = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(beyond):
        raise PicJaxError(
            f'{where}token id {beyond[0]} is not valid: expected 0 to {vocab_size - 1}; the tokenizer is not of this '
            'model'
        )
