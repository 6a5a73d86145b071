"""The installed packages that pic_jax needs, found by walking their metadata."""

import configparser
import re
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def pinned(path: Path = ROOT / 'constraints.txt') -> dict[str, str]:
    """{canonical name: version} of a file of constraints or of a lock."""
    found = re.findall(r'^([\w.-]+)==([^\s\\]+)', path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def asked_for(extra: str) -> list[str]:
    """The requirements that setup.cfg names: pic_jax's own for '', or an extra's."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    text = settings['options.extras_require'][extra] if extra else settings['options']['install_requires']
    return text.strip().splitlines()


def needed(extras: Sequence[str] = ()) -> dict[str, str]:
    """{canonical name: the package that asks for it}, breadth first from pic_jax with these extras.

    Markers are those of this interpreter and platform.

    Raises:
      importlib.metadata.PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = deque(('pic_jax', extra) for extra in ('', *extras))
    while queue:
        name, extra = queue.popleft()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in asked_for(extra) if name == 'pic_jax' else metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({'extra': extra}):
                continue
            child = canonicalize_name(wanted.name)
            found.setdefault(child, name)
            queue.extend((child, each) for each in ('', *sorted(wanted.extras)))
    return found
