"""What a start does with checkpoints that the disk has damaged."""

import itertools
from pathlib import Path

import numpy as np
from jax.experimental import multihost_utils

from pic_jax.distributed import is_main
from pic_jax.errors import PicJaxError
from pic_jax.training.checksums import find_damage


def set_damaged_aside(folder: Path) -> list[str]:
    """Renames damaged checkpoints, so that a run goes on from the newest whole one and writes over nothing.

    All processes call it together, before any opens the folder; the main one looks and renames. What is older than a
    whole one and lacks files stays: a kill while Orbax deletes a checkpoint leaves a part, which the next save deletes.

    Returns:
      a line for every checkpoint that was renamed.

    Raises:
      PicJaxError: there are checkpoints, and all of them are damaged; nothing was renamed.
    """
    lines, refusal = [], ''
    if is_main():
        try:
            lines = _set_damaged_aside(folder)
        except PicJaxError as error:
            refusal = str(error)
    if multihost_utils.broadcast_one_to_all(np.bool_(refusal)):
        raise PicJaxError(refusal or f'{folder}: no checkpoint can be used; the main process says why')
    return lines


def _set_damaged_aside(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdecimal())
    damages = {step: find_damage(folder / str(step)) for step in steps}
    whole = [step for step, damage in damages.items() if damage is None]
    if steps and not whole:
        told = '; '.join(damage.text for damage in damages.values() if damage)
        raise PicJaxError(
            f'{folder}: every checkpoint is damaged ({told}): '
            'bring one back from a copy, or delete the folder to start over'
        )
    lines = []
    for step, damage in damages.items():
        if damage is None or (damage.missing and step < max(whole)):
            continue
        aside = next(path for n in itertools.count(1) if not (path := folder / f'{step}.damaged.{n}').exists())
        try:
            (folder / str(step)).rename(aside)
        except OSError as error:
            raise PicJaxError(f'{damage.text}; {folder / str(step)} cannot be renamed: {error.strerror}') from error
        lines.append(f'checkpoint {step} is damaged and was renamed {aside}: {damage.text}')
    return lines
