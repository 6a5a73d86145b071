"""Pins, hashes and licences: three files that say the same about the same packages."""

import re

import licences
import packages
import pytest

PINNED = packages.pinned()
LOCK, BUILD_LOCK = packages.ROOT / 'requirements.lock', packages.ROOT / 'requirements-build.lock'
UNLISTED = {'libtpu'}  # of the extras tpu and aot, under a licence of its maker: DEPENDENCIES.md says so
ROWS = licences.read()


def test_dependencies_md_lists_what_is_pinned():
    """Where this fails, run tools/licences.py after `make venv-test`."""
    pinned = {name: version for name, version in PINNED.items() if name not in UNLISTED}
    assert {row.name: row.version for row in ROWS} == pinned


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_every_licence_is_allowed(row):
    assert licences.words(row.licence) <= licences.ALLOWED


def test_a_licence_that_is_not_allowed_is_found():
    assert not licences.words('MIT OR (GPL-3.0-only AND BSD)') <= licences.ALLOWED


def test_what_is_installed_here_is_listed():
    listed = {row.name: row.parent for row in ROWS}
    needed = packages.needed(('test',))
    assert needed.keys() <= listed.keys()
    assert {name for name, parent in needed.items() if parent == 'pic_jax'} <= {
        name for name, parent in listed.items() if parent == 'pic_jax'
    }


def test_the_lock_pins_what_is_pinned_and_all_of_it():
    """Where this fails, run tools/lock.py."""
    locked = packages.pinned(LOCK)
    assert locked == {name: PINNED[name] for name in locked}
    assert locked.keys() == {row.name for row in ROWS if row.group == 'run'}


@pytest.mark.parametrize('path', [LOCK, BUILD_LOCK], ids=lambda path: path.name)
def test_every_requirement_has_hashes(path):
    requirements = path.read_text().replace('\\\n', ' ').splitlines()[1:]
    assert requirements
    for line in requirements:
        assert re.fullmatch(r'[\w.-]+==[\w.]+(\s+--hash=sha256:[0-9a-f]{64})+', line), line
