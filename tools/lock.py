"""Writes requirements.lock and requirements-build.lock: what constraints.txt pins, with the sha256 of every file.

    python tools/lock.py

asks pip's own index, whatever this machine is configured to use, so that the hashes are of the files as published. The
lock holds what pic_jax needs on Python 3.11 to 3.13 and Linux x86-64, without extras; SECURITY.md says how to install.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import packages

PYTHONS = ('3.11', '3.12', '3.13')
PLATFORMS = [f'manylinux_2_{glibc}_x86_64' for glibc in range(28, 4, -1)]
BUILD = 'setuptools'  # builds pic_jax, and rouge_score, which is published as source only
HEAD = '# Written by tools/lock.py: Python {pythons}, Linux x86-64. SECURITY.md says how to install it.\n'


def report(*arguments: str) -> dict[str, tuple[str, str, str]]:
    """{canonical name: name, version and sha256} of what pip would install."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PIP_') or name == 'PIP_CERT'}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'report.json'
        command = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--quiet']
        subprocess.run(
            [*command, f'--report={path}', *arguments],
            env=kept | {'PIP_CONFIG_FILE': os.devnull}, cwd=packages.ROOT, check=True,
        )  # fmt: skip
        found: dict[str, tuple[str, str, str]] = {}
        for each in json.loads(path.read_text())['install']:
            name, version = each['metadata']['name'], each['metadata']['version']
            archive = each['download_info'].get('archive_info')
            if archive:  # pic_jax itself is a folder
                found[packages.canonicalize_name(name)] = (name, version, archive['hashes']['sha256'])
        return found


def lines(reports: list[dict[str, tuple[str, str, str]]]) -> str:
    """A requirement for each package, with every hash that one of the reports has."""
    text = []
    for key in sorted(set().union(*reports)):
        name, version, _ = next(each[key] for each in reports if key in each)
        hashes = sorted({each[key][2] for each in reports if key in each})
        text.append(f'{name}=={version} ' + ' '.join(f'\\\n    --hash=sha256:{digest}' for digest in hashes))
    return '\n'.join(text) + '\n'


def main() -> None:
    """Writes both files."""
    first = report('--constraint=constraints.txt', '.')
    pins = [f'{name}=={version}' for name, version, _ in first.values()]
    options = ['--no-deps', '--target=unused', *(f'--platform={platform}' for platform in PLATFORMS)]
    reports = [first, *(report(*options, f'--python-version={python}', *pins) for python in PYTHONS)]
    head = HEAD.format(pythons=', '.join(PYTHONS))
    (packages.ROOT / 'requirements.lock').write_text(head + lines(reports))
    (packages.ROOT / 'requirements-build.lock').write_text(
        head + lines([report('--no-deps', '--constraint=constraints.txt', BUILD)])
    )


if __name__ == '__main__':
    main()
