"""What a disk can do to the files of a checkpoint, and what a resume then takes for the state of a training."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pic_jax.errors import PicJaxError
from pic_jax.files import read_json
from pic_jax.training.checkpoint import Checkpoints
from pic_jax.training.recovery import set_damaged_aside

# Outcomes: the newest checkpoint is used and right; the one before it is used, right, and the damaged one named;
# a refusal; anything else.
SAME, EARLIER, REFUSED, WRONG = 'the same state', 'the checkpoint before', 'refused', 'a wrong state'
RIGHT = (SAME, EARLIER)  # a good checkpoint stands beside every damaged one, so that a refusal loses a training
FLIPS = 4


def damages(size: int, rng: random.Random) -> Iterator[tuple[str, int, Callable[[bytes], bytes | None]]]:
    """(kind, offset, bytes of a file -> what is left of it, None: no file) for a file of that size."""
    for offset in sorted({0, size // 4, size // 2, size - 1}):
        yield 'truncated', offset, lambda data, offset=offset: data[:offset]
        yield 'half-written', offset, lambda data, offset=offset: data[:offset].ljust(len(data), b'\0')
    for _ in range(FLIPS):
        offset, bit = rng.randrange(size), 1 << rng.randrange(8)
        yield 'bit flipped', offset, lambda data, offset=offset, bit=bit: flipped(data, offset, bit)
    yield 'deleted', 0, lambda data: None


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    """The bytes with one bit changed."""
    return data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :]


def apply(path: Path, change: Callable[[bytes], bytes | None]) -> bool:
    """Damages a file; False where its bytes were so before, as zeros that are written as zeros."""
    before = path.read_bytes()
    after = change(before)
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    return after != before


class Saved(NamedTuple):
    """What is restored from a folder of checkpoints: a tree of these shapes, trained for that base."""

    like: Any
    base: str

    @classmethod
    def of(cls, checkpoint: Path) -> 'Saved':
        """As an undamaged checkpoint describes itself."""
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        leaves = ocp.StandardCheckpointHandler().metadata(epath.Path(checkpoint.absolute() / 'default')).tree
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), leaves)
        return cls(like, read_json(checkpoint / '_CHECKPOINT_METADATA')['custom_metadata']['base'])

    def restore(self, checkpoints: Path, step: int) -> list[bytes]:
        """The bytes of every array."""
        opened = Checkpoints(checkpoints, keep=2, base=self.base)
        try:
            return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(opened.restore(step, self.like))]
        finally:
            opened.close()


def damage_every_file(workdir: Path, copy: Path, seed: int) -> list[dict[str, Any]]:
    """A row for every damage to every file of the newest checkpoint of a finished run.

    Args:
      copy: a folder to damage; made and removed.
    """
    rng, rows = random.Random(seed), []
    checkpoints = workdir / 'checkpoints'
    newest, before = sorted((int(path.name) for path in checkpoints.iterdir()), reverse=True)[:2]
    saved = Saved.of(checkpoints / str(newest))
    right = {step: saved.restore(checkpoints, step) for step in (newest, before)}
    for file in sorted(path for path in (checkpoints / str(newest)).rglob('*') if path.is_file()):
        name = file.relative_to(checkpoints)
        for kind, offset, change in damages(file.stat().st_size, rng):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(checkpoints, copy)
            if apply(copy / name, change):
                row = {'file': name.as_posix(), 'damage': kind, 'offset': offset}
                rows.append(row | outcome(copy, saved, right))
    shutil.rmtree(copy)
    return rows


def outcome(checkpoints: Path, saved: Saved, right: dict[int, list[bytes]]) -> dict[str, str]:
    """What a start makes of a damaged folder, as `loop.fit` opens it, and what it says where it refuses.

    Args:
      right: what the newest checkpoint and the one before held, by step.
    """
    try:
        said = '; '.join(set_damaged_aside(checkpoints))
        step = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
        state = saved.restore(checkpoints, step)
    except PicJaxError as error:
        return {'outcome': REFUSED, 'said': str(error)}
    newest = max(right)
    named = f'checkpoint {newest} is damaged' in said
    found = WRONG
    if state == right[step] and named == (step != newest):
        found = SAME if step == newest else EARLIER
    return {'outcome': found}
