"""A small disk of its own, which a test may fill up or make read-only."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Disk:
    """A mounted tmpfs of 20 MiB.

    Attributes:
      path: where it is mounted.
    """

    def __init__(self, path: Path):
        """Mounts it at a new folder."""
        path.mkdir()
        self.path, self._filler = path, path / 'filler'
        _run('mount', '-t', 'tmpfs', '-o', 'size=20m', 'none', str(path))

    def fill(self, free: int) -> None:
        """Leaves that many bytes, whole pages of 4096."""
        size, block = 0, b'\0' * 2**20
        with self._filler.open('wb', buffering=0) as file:
            try:
                while True:
                    size += file.write(block)
            except OSError:  # full
                file.truncate(size - free)

    def clear(self) -> None:
        """Takes away what `fill` put there."""
        self._filler.unlink()

    def make_read_only(self) -> None:
        """Also for root, whom permissions do not stop."""
        _run('mount', '-o', 'remount,ro', str(self.path))

    def close(self) -> None:
        """Unmounts it."""
        _run('umount', '--lazy', str(self.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    try:
        made = Disk(tmp_path / 'disk')
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'needs the right to mount a tmpfs ({error})')
    yield made
    made.close()


@pytest.fixture
def failed(capfd) -> Callable[..., None]:
    """A function that checks what a failed command wrote: one line, the last, that holds all of the given words."""

    def check(*said: str) -> None:
        captured = capfd.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith('pic-jax: error:')]
        assert len(lines) == 1, captured.err
        assert captured.err.splitlines()[-1] == lines[0]
        assert 'Traceback' not in captured.err
        assert captured.out == ''
        for words in said:
            assert words in lines[0]

    return check


@pytest.fixture
def train(tiny_config_file) -> Callable[..., int]:
    """A function that runs `pic-jax train` in a workdir; returns the exit code."""
    from pic_jax.cli.main import main

    return lambda workdir, *words: main(['train', f'--config={tiny_config_file}', f'--workdir={workdir}', *words])


@pytest.fixture
def halfway(tmp_path, trained_workdir) -> Path:
    """A copy of the finished workdir that has its checkpoint of step 2 and lacks the one of step 4."""
    import shutil

    workdir = Path(shutil.copytree(trained_workdir, tmp_path / 'halfway'))
    shutil.rmtree(workdir / 'checkpoints' / '4')
    return workdir


@pytest.fixture(scope='session')
def exported_compressor(trained_workdir, tmp_path_factory) -> Path:
    """A folder as `pic-jax export` makes it."""
    from pic_jax.cli.main import main

    folder = tmp_path_factory.mktemp('exported') / 'pic'
    assert main(['export', f'--workdir={trained_workdir}', f'--out={folder}']) == 0
    return folder
