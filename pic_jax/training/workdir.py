"""A run's folder: config.json, metrics.jsonl, checkpoints/, plots/."""

import json
from pathlib import Path
from typing import Any

from pic_jax.config import RunConfig, from_mapping, to_mapping
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.files import read_json, write_text

CONFIG = 'config.json'
# What may change between two starts of one run: how long it goes on, how it reports, how it steps, on what.
CHANGEABLE = (
    'remat', 'attention', 'bar', 'mesh.', 'optimizer.', 'train.steps', 'train.microbatches', 'train.log_every',
    'train.eval_every', 'train.eval_examples', 'train.checkpoint_every', 'train.keep_checkpoints', 'train.best_metric',
    'train.stall_timeout_s', 'train.max_skipped_steps',
)  # fmt: skip


def read_config(workdir: Path, kind: type = RunConfig) -> Any:
    """The resolved configuration of a workdir, as the dataclass `kind`.

    Raises:
      PicJaxError: there is none, or it is not valid.
    """
    path = workdir / CONFIG
    if not path.is_file():
        raise PicJaxError(f'{workdir} is not a workdir: {path} does not exist')
    values = read_json(path)
    if values.get('model_type') == 'pic_compressor':
        raise PicJaxError(
            f'{workdir} is an exported compressor, not a workdir: use `pic-jax check`, '
            'pic_jax.interop.artefact.load or pic_jax.torch_runtime'
        )
    try:
        return from_mapping(kind, values)
    except ConfigError as error:
        raise PicJaxError(f'{path}: {error}') from error


def write_config(workdir: Path, config: Any) -> None:
    """Writes config.json; makes the folder."""
    write_text(workdir / CONFIG, json.dumps(to_mapping(config), indent=2) + '\n')


def refuse_run(workdir: Path) -> None:
    """Raises ConfigError where a run has its files, which those of another verb would replace."""
    if (workdir / CONFIG).exists():
        raise ConfigError(f'--workdir={workdir} is that of a run, or a model ({CONFIG}): expected another folder')


def compare_config(workdir: Path, config: Any) -> list[str]:
    """Checks a configuration against the workdir's, if it has one.

    Returns:
      the changed keys as 'key: old -> new', all of them changeable.

    Raises:
      ConfigError: a key that decides shapes, data or data order differs from the workdir's.
    """
    changes = {}
    if (workdir / CONFIG).exists():
        old, new = flat(to_mapping(read_config(workdir, type(config)))), flat(to_mapping(config))
        changes = {key: f'{key}: {old[key]} -> {new[key]}' for key in new if old[key] != new[key]}
        fixed = [text for key, text in changes.items() if not key.startswith(CHANGEABLE)]
        if fixed:
            raise ConfigError(
                f'{workdir} holds a run with other settings ({"; ".join(fixed)}): '
                'use another --workdir, or the same settings'
            )
    return list(changes.values())


def flat(values: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested settings as {'a.b.c': value}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f'{prefix}{key}.')
        else:
            found[prefix + key] = value
    return found
