"""What a stored number must say about where it came from."""

import os
import platform

import jax

from pic_jax.evaluation.environment import commit


def provenance(seed: int) -> dict[str, object]:
    """Commit (with '+' where the tree has changes), machine, versions and seed."""
    return {
        'commit': commit(),
        'machine': f'{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}',
        'jax': jax.__version__,
        'seed': seed,
    }
