"""Programs that stand in for gcloud, srun, scontrol and the like: they record how they are called."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RECORD = """#!/bin/bash
printf '%q ' "${0##*/}" "$@" >>"$FAKES/calls"
echo >>"$FAKES/calls"
"""


class Fakes:
    """A folder at the front of PATH; `calls` are the command lines of its programs, in order."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / 'bin').mkdir()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(('PIC_JAX', 'SLURM', 'SBATCH'))
        } | {'PATH': f'{folder}/bin:{os.environ["PATH"]}', 'FAKES': str(folder), 'TMPDIR': str(folder)}

    def add(self, name: str, body: str = '') -> None:
        """A program that records its call and then does what the bash `body` says."""
        path = self.folder / 'bin' / name
        path.write_text(RECORD + body)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / 'calls'
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs a script of launch/ to its end."""
        return subprocess.run(
            [ROOT / 'launch' / script, *words], env=self.environment | environment, capture_output=True, text=True,
            cwd=self.folder, timeout=60,
        )  # fmt: skip


@pytest.fixture
def fakes(tmp_path) -> Fakes:
    return Fakes(tmp_path)


@pytest.fixture
def no_programs(fakes) -> Fakes:
    """Every program that the scripts start fails, and shows in `calls`."""
    for name in ('gcloud', 'git', 'kubectl', 'sky', 'srun', 'scontrol', 'squeue'):
        fakes.add(name, 'exit 99')
    return fakes
