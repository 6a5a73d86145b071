"""What configuration files are made of: every key at its default, and rows of a sweep."""

import itertools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.config.compressor import CompressorConfig
from pic_jax.config.mapping import to_mapping
from pic_jax.config.presets import PRESET_OPTIONS
from pic_jax.config.pretraining import PretrainConfig
from pic_jax.config.run import RunConfig


def grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values of dotted keys, the last key fastest: rows for `get_sweep()` of a sweep's file."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def default_pretrain_config() -> Any:
    """A ConfigDict of every `PretrainConfig` key at its default."""
    from ml_collections import ConfigDict

    return ConfigDict(to_mapping(PretrainConfig()))


def default_config() -> Any:
    """A ConfigDict of every `RunConfig` key at its default, for `get_config()` in a configuration file.

    Options that a compressor preset decides are None until a file or the command line sets them.
    """
    from ml_collections import ConfigDict, config_dict

    values = to_mapping(RunConfig()) | {'decoder_prefix': config_dict.placeholder(tuple)}
    hints = typing.get_type_hints(CompressorConfig)
    for key in (*PRESET_OPTIONS, 'window'):
        hint = hints[key]
        scalar = hint if isinstance(hint, type) else next(a for a in typing.get_args(hint) if a is not type(None))
        values['compressor'][key] = config_dict.placeholder(scalar)
    return ConfigDict(values)
