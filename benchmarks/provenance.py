"""What a stored number must say about where it came from."""

import os
import platform
import subprocess
from pathlib import Path

import jax


def provenance(seed: int) -> dict[str, object]:
    """Commit (with '+' where the tree has changes), machine, versions and seed."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(['git', *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    changed = git('status', '--porcelain', '--untracked-files=no')
    return {
        'commit': git('rev-parse', '--short', 'HEAD') + ('+' if changed else ''),
        'machine': f'{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}',
        'jax': jax.__version__,
        'seed': seed,
    }
