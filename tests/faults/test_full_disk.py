"""A disk that is full: the command ends with the path and the reason, and what was good before is there after."""

import asyncio
import errno
import gc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from killed_runs import records, unfinished
from safetensors.numpy import save_file

import pic_jax
from pic_jax.cli.main import main
from pic_jax.errors import PicJaxError
from pic_jax.files import replacing
from pic_jax.interop import foreign, serving
from pic_jax.training import weights
from pic_jax.training.checksums import find_damage
from pic_jax.training.orbax_noise import silence
from pic_jax.training.writers import MetricsFile

FULL = 'No space left on device'


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_save_that_does_not_fit_ends_the_run_and_keeps_the_checkpoint_before(
    disk, halfway, trained_workdir, tiny_config_file
):
    """With room for what is small. When there is room again, the same command finishes the run."""
    workdir = shutil.copytree(halfway, disk.path / 'run')
    disk.fill(free=60_000)
    command = [sys.executable, '-m', 'pic_jax.cli.main', 'train', f'--config={tiny_config_file}']
    command += [f'--workdir={workdir}']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('pic-jax: error:')]
    assert f'{workdir}/checkpoints/4: cannot be saved' in line
    assert FULL in line
    assert 'Traceback' not in done.stderr
    assert find_damage(workdir / 'checkpoints' / '2') is None
    assert not (workdir / 'checkpoints' / '4').exists()
    disk.clear()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'resumed from step 2' in again.stderr
    assert records(workdir) == records(trained_workdir)
    assert unfinished(workdir) == []


@pytest.mark.parametrize('of_orbax', [True, False])
def test_a_write_of_orbax_that_fails_unasked_is_not_logged(caplog, of_orbax):
    """Whether there is one hangs on which of two arrays is written first."""
    silence()
    with pytest.raises(ValueError, match='neither') as raised:
        ocp.CheckpointManagerOptions(best_mode='neither')

    async def write():
        raise raised.value if of_orbax else ValueError('of others')

    async def forget():
        asyncio.get_running_loop().create_task(write())
        await asyncio.sleep(0)

    asyncio.run(forget())
    gc.collect()
    logged = [record for record in caplog.records if 'never retrieved' in record.getMessage()]
    assert len(logged) == (0 if of_orbax else 1)


def test_a_run_that_cannot_write_its_first_file_says_so(disk, train, failed):
    disk.fill(free=0)
    assert train(disk.path / 'run') == 1
    failed(str(disk.path / 'run'), FULL)


def test_a_record_that_does_not_fit_is_an_error_with_a_path(disk):
    path = disk.path / 'metrics.jsonl'
    metrics = MetricsFile(path)
    metrics.write({'step': 1, 'split': 'train'})
    disk.fill(free=0)
    with pytest.raises(PicJaxError, match=rf'{path}: cannot be written: {FULL}'):
        metrics.write({'step': 2, 'split': 'train', 'text': 'x' * 8192})
    disk.clear()
    assert [record['step'] for record in metrics.cut(9)] == [1]


def test_export_leaves_nothing_behind(disk, trained_workdir, failed):
    disk.fill(free=8192)
    before = names(disk.path)
    assert main(['export', f'--workdir={trained_workdir}', f'--out={disk.path / "out"}']) == 1
    failed(f'{disk.path / "out"}', 'cannot be written', FULL)
    assert names(disk.path) == before


@pytest.fixture
def no_room(monkeypatch):
    """No tensors can be written."""

    def full(*_):
        raise OSError(errno.ENOSPC, FULL)

    for module in weights, serving:
        monkeypatch.setattr(module, 'save_file', full)
    return monkeypatch


def test_convert_leaves_nothing_behind_and_may_be_tried_again(trained_workdir, tmp_path, no_room, failed):
    trained, out = pic_jax.load(trained_workdir), tmp_path / 'out'
    no_room.setattr(foreign, 'read_icae', lambda *_: (trained.run.config, trained.trainable))
    command = ['convert', '--base=tiny_base', '--icae=file', f'--out={out}']
    assert main(command) == 1
    failed(f'{out}', 'cannot be written', FULL)
    assert names(tmp_path) == set()
    no_room.undo()
    no_room.setattr(foreign, 'read_icae', lambda *_: (trained.run.config, trained.trainable))
    assert main(command) == 0
    assert names(tmp_path) == {'out'}


def test_a_saved_compressor_is_kept_as_it_was_or_not_there(trained_workdir, tmp_path, no_room):
    trained = pic_jax.load(trained_workdir)
    for _ in range(2):
        with pytest.raises(PicJaxError, match=FULL):
            trained.save(tmp_path / 'saved')
        assert names(tmp_path) == set()
    (tmp_path / 'saved').mkdir()
    for name in 'config.json', 'compressor.safetensors':
        (tmp_path / 'saved' / name).write_text('mine')
    with pytest.raises(PicJaxError, match=FULL):
        trained.save(tmp_path / 'saved')
    assert {path.name: path.read_text() for path in (tmp_path / 'saved').iterdir()} == {
        'config.json': 'mine',
        'compressor.safetensors': 'mine',
    }


def test_an_adapter_for_peft_is_whole_or_not_there(tiny_target, tmp_path, no_room):
    prompt = np.ones((3, 32), np.float32)
    with pytest.raises(PicJaxError, match=FULL):
        serving.write_peft_prompt(tmp_path / 'out', prompt, tiny_target, 'owner/tiny')
    assert names(tmp_path) == set()
    no_room.undo()
    for _ in range(2):  # the second time in the place of the first
        serving.write_peft_prompt(tmp_path / 'out', prompt, tiny_target, 'owner/tiny')
        assert names(tmp_path / 'out') == {'adapter_config.json', 'adapter_model.safetensors'}


@pytest.fixture
def long_text(tmp_path) -> Path:
    """Lines for a file of contexts of 200 KB."""
    path = tmp_path / 'texts.jsonl'
    path.write_text('{"text": "Anna went to the market and bought three apples."}\n' * 200)
    return path


def test_compress_keeps_the_file_that_it_was_to_replace(disk, trained_workdir, long_text, failed):
    out = disk.path / 'contexts.safetensors'
    out.write_text('mine')
    disk.fill(free=8192)
    before = names(disk.path)
    assert main(['compress', f'--workdir={trained_workdir}', str(long_text), f'--out={out}', '--overwrite']) == 1
    failed(f'{out}: cannot be written', FULL)
    assert out.read_text() == 'mine'
    assert names(disk.path) == before


@pytest.mark.parametrize(
    'write', [lambda path: path.write_text('x' * 100_000), lambda path: save_file({'x': np.zeros(100_000)}, path)]
)
def test_a_file_keeps_its_bytes_when_the_new_ones_do_not_fit(disk, write):
    """By Python's own writing and by safetensors', which raises an error of its own."""
    path = disk.path / 'file'
    path.write_text('mine')
    disk.fill(free=8192)
    with pytest.raises(PicJaxError, match=rf'{path}: cannot be written: .*{FULL}'), replacing(path) as temporary:
        write(temporary)
    assert path.read_text() == 'mine'
    assert names(disk.path) == {'file', 'filler'}
