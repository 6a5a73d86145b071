"""SHA-256 of the files of a checkpoint: Orbax reads flipped bits of an array as numbers without a word."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from pic_jax.errors import PicJaxError
from pic_jax.files import read_json, replacing, sha256

NAME = 'checksums.json'
# Orbax adds the time to this file when the checkpoint has its checksums already: what counts is all the rest of it.
_METADATA, _COMMITTED = '_CHECKPOINT_METADATA', 'commit_timestamp_nsecs'


def write_checksums(folder: Path) -> None:
    """Writes checksums.json into a checkpoint: {'sha256': {file, relative to the folder: hex digits}}.

    Raises:
      PicJaxError: it cannot be written. OSError: a file cannot be read.
    """
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps({'sha256': digests}, indent=1) + '\n', 'utf-8')


class Damage(NamedTuple):
    """text: what is wrong, with the path. missing: a file that was saved is not there."""

    text: str
    missing: bool = False


def find_damage(folder: Path) -> Damage | None:
    """What is wrong with the files of a checkpoint; None where every one is as it was saved.

    None as well for a checkpoint without checksums, as earlier versions wrote them.
    """
    if not (folder / NAME).exists():
        return None
    try:
        digests = read_json(folder / NAME)['sha256']
        missing = [str(folder / name) for name in digests if not (folder / name).is_file()]
        if missing:
            return Damage(f'{missing[0]} is missing', missing=True)
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                return Damage(f'{folder / name} has another SHA-256 than when it was saved')
    except OSError as error:
        return Damage(f'{error.filename} cannot be read: {error.strerror}')
    except (PicJaxError, KeyError, AttributeError, TypeError, ValueError):  # whatever damage makes of JSON and of names
        return Damage(f'{folder / NAME} does not list the files of the checkpoint')
    return None


def _sha256(path: Path) -> str:
    if path.name == _METADATA:
        with contextlib.suppress(ValueError, AttributeError, TypeError):  # damaged, and no JSON object any more
            values = json.loads(path.read_bytes())
            values.pop(_COMMITTED, None)
            return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return sha256(path)
