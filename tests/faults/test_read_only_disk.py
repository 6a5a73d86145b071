"""A workdir that cannot be written: training says so and changes nothing; reading from it works."""

import shutil
from pathlib import Path

import pytest

from pic_jax.cli.main import main

READ_ONLY = 'Read-only file system'


@pytest.fixture
def workdir(disk, halfway) -> Path:
    """A half-finished run on a read-only disk."""
    path = Path(shutil.copytree(halfway, disk.path / 'run'))
    disk.make_read_only()
    return path


def test_training_is_refused(workdir, train, failed):
    assert train(workdir) == 1
    failed(str(workdir), READ_ONLY)


def test_a_new_run_is_refused(workdir, train, failed):
    assert train(workdir.parent / 'new') == 1
    failed(str(workdir.parent / 'new'), READ_ONLY)


def test_export_and_compress_read_it_and_write_elsewhere(workdir, tmp_path, capfd, failed):
    (tmp_path / 'note.txt').write_text('Anna went to the market.')
    compress = ['compress', f'--workdir={workdir}', str(tmp_path / 'note.txt')]
    assert main([*compress, f'--out={tmp_path / "note.safetensors"}']) == 0
    assert main(['export', f'--workdir={workdir}', f'--out={tmp_path / "out"}']) == 0
    capfd.readouterr()
    assert main([*compress, f'--out={workdir / "note.safetensors"}']) == 1
    failed(f'{workdir}/note.safetensors: cannot be written', READ_ONLY)
    assert main(['export', f'--workdir={workdir}', f'--out={workdir / "out"}']) == 1
    failed(f'{workdir}/out: cannot be written', READ_ONLY)
