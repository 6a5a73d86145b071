"""Settings from nested mappings, and back."""

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from pic_jax.config.checks import require
from pic_jax.config.compressor import CompressorConfig
from pic_jax.config.run import RunConfig
from pic_jax.errors import ConfigError


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str = '') -> Any:
    """Builds dataclass `cls` from nested mappings (`ConfigDict.to_dict()` or parsed JSON).

    Raises:
      ConfigError: an unknown key (with the nearest valid one), a value of the wrong type, or one that
        the dataclass refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {}
    if cls is RunConfig and isinstance(values.get('remat'), bool):  # of files written before policies had names
        values = {**values, 'remat': 'full' if values['remat'] else 'none'}
    for key, value in values.items():
        if not isinstance(key, str) or key not in hints:
            raise ConfigError(unknown_key(f'{prefix}{key}', str(key), tuple(hints)))
        fields[key] = _convert(hints[key], value, prefix + key)
    if cls is CompressorConfig:
        return CompressorConfig.preset(fields.pop('method', 'pic'), **fields)
    try:
        return cls(**fields)
    except TypeError as error:
        raise ConfigError(f'{prefix or cls.__name__}: {error}') from error


def unknown_key(path: str, key: str, valid: tuple[str, ...]) -> str:
    """The message for a key that does not exist: the nearest valid one, or all of them."""
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f'did you mean {path[: len(path) - len(key)]}{near[0]}?' if near else f'valid here: {", ".join(valid)}'
    return f'unknown config key {path}: {hint}'


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type: nested dataclass, tuple, optional or scalar."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        require(isinstance(value, Mapping), path, value, 'a group of settings')
        return from_mapping(hint, value, path + '.')
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return _convert(hint, value, path)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        require(isinstance(value, list | tuple), path, value, f'a list of {item.__name__}')
        return tuple(_convert(item, element, path) for element in value)
    if value is None:
        # A compressor option left at None takes its preset's value (CompressorConfig.preset).
        group, _, option = path.partition('.')
        require(group == 'compressor' and '.' not in option, path, value, hint.__name__)
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) <= sys.float_info.max, path, value, 'a finite float')
        return float(value)
    require(isinstance(value, hint) and isinstance(value, bool) == (hint is bool), path, value, hint.__name__)
    return value


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dicts; `from_mapping` of the result (or of its JSON) gives it back."""
    return dataclasses.asdict(config)
