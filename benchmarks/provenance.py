"""What a stored number must say about where it came from."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pic_jax.evaluation.environment import environment

FIELDS = ('commit', 'machine', 'jax', 'seed')


def provenance(seed: int) -> dict[str, Any]:
    """Commit (with '+' where the tree has changes), machine, version of jax, and seed."""
    here = environment()
    machine = f'{processor()}{here["machine"]}, {len(os.sched_getaffinity(0))} cores, {here["device"]}'
    return {'commit': here['commit'], 'machine': machine, 'jax': here['jax'], 'seed': seed}


def processor() -> str:
    """What Linux calls the processor, with ', '; empty where it says nothing."""
    path = Path('/proc/cpuinfo')
    found = re.search(r'^model name\s*: (.+)$', path.read_text(), re.MULTILINE) if path.exists() else None
    return f'{found[1].strip()}, ' if found else ''


def of_file(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What an older file says of all its rows; newer ones say it in each row."""
    return {field: stored[field] for field in FIELDS if field in stored}


def rows_of(stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file, each with where it came from."""
    return [of_file(stored) | row for row in stored['rows']]
