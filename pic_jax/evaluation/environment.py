"""What a number depends on beside its settings: versions, machine, commit."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import pic_jax
from pic_jax.files import read_json, write_text

NAME = 'environment.json'


def environment() -> dict[str, Any]:
    """Versions, machine and time of this process; `commit` is None where the package runs outside its repository."""
    devices = jax.devices()
    return {
        'pic_jax': pic_jax.__version__,
        'commit': commit(),
        'jax': jax.__version__,
        'python': platform.python_version(),
        'machine': platform.machine(),
        'cores': os.cpu_count(),
        'device': devices[0].device_kind,
        'devices': len(devices),
        'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    }


def commit() -> str | None:
    """The short commit of the repository that the package lies in, with '+' where tracked files have changes.

    Stored results do not count: what a benchmark has stored is no change to what it runs next.
    """
    root = Path(pic_jax.__file__).parents[1]
    if not (root / '.git').exists():  # installed: a repository around that place would be another project's
        return None
    try:
        return _git(root, 'rev-parse', '--short', 'HEAD') + '+' * bool(
            _git(root, 'status', '--porcelain', '--untracked-files=no', '--', ':!benchmarks/results')
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or it refuses the folder
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(['git', *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def record_environment(workdir: Path, verb: str, values: Mapping[str, Any]) -> None:
    """Writes an environment into the workdir's environment.json, as that of a verb's last call.

    Raises:
      PicJaxError: the file is there and broken, or cannot be written.
    """
    path = workdir / NAME
    known = read_json(path) if path.is_file() else {}
    write_text(path, json.dumps(known | {verb: dict(values)}, indent=1) + '\n')
