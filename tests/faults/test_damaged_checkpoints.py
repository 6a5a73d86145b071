"""A disk that has damaged a checkpoint: the last good one is found and named, or nothing is done."""

import shutil
from pathlib import Path

import damage
import jax.numpy as jnp
import numpy as np
import pytest
from killed_runs import records

from pic_jax.cli.main import main
from pic_jax.errors import PicJaxError
from pic_jax.training.checkpoint import Checkpoints
from pic_jax.training.checksums import NAME, find_damage
from pic_jax.training.recovery import set_damaged_aside


def array_file(checkpoint: Path) -> Path:
    """The largest file, which holds numbers of arrays."""
    return max((path for path in checkpoint.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path, offset: int | None = None) -> None:
    """Changes one bit, in the middle of the file unless said otherwise."""
    offset = path.stat().st_size // 2 if offset is None else offset
    path.write_bytes(damage.flipped(path.read_bytes(), offset, 4))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_a_run_goes_on_from_the_last_good_checkpoint_and_names_it(finished_workdir, trained_workdir, train, capfd):
    checkpoints = finished_workdir / 'checkpoints'
    broken = array_file(checkpoints / '4')
    flip(broken)
    before = contents(checkpoints / '4')
    assert train(finished_workdir) == 0
    err = capfd.readouterr().err
    aside = checkpoints / '4.damaged.1'
    assert (
        f'checkpoint 4 is damaged and was renamed {aside}: {broken} has another SHA-256 than when it was saved' in err
    )
    assert f'resumed from step 2 of {finished_workdir}' in err
    assert records(finished_workdir) == records(trained_workdir)
    assert contents(aside) == before
    assert find_damage(checkpoints / '4') is None


def test_without_a_good_checkpoint_nothing_is_touched(finished_workdir, train, failed):
    for step in '2', '4':
        flip(array_file(finished_workdir / 'checkpoints' / step))
    before = contents(finished_workdir)
    assert train(finished_workdir) == 1
    failed(f'{finished_workdir}/checkpoints: every checkpoint is damaged', 'checkpoints/2/', 'checkpoints/4/')
    assert contents(finished_workdir) == before


@pytest.mark.parametrize('verb', ['export', 'compress'])
def test_readers_refuse_a_damaged_checkpoint_and_name_the_others(verb, finished_workdir, tmp_path, failed):
    broken = array_file(finished_workdir / 'checkpoints' / '4')
    flip(broken)
    before = contents(finished_workdir)
    (tmp_path / 'note.txt').write_text('Anna went to the market.')
    words = [str(tmp_path / 'note.txt')] if verb == 'compress' else []
    command = [verb, f'--workdir={finished_workdir}', f'--out={tmp_path / "out"}', *words]
    assert main(command) == 1
    failed(f'checkpoint 4 is damaged: {broken} has another SHA-256', '(other steps: 2)')
    assert not (tmp_path / 'out').exists()
    assert main([*command, '--step=2']) == 0
    assert contents(finished_workdir) == before


STATE = {'weights': jnp.arange(4000.0).reshape(40, 100), 'step': jnp.int32(7)}


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """A folder with steps 2, 4 and 6, of which 2 is the best."""
    opened = Checkpoints(tmp_path / 'run' / 'checkpoints', keep=2, base='a' * 64)
    for step, score in (2, -1.0), (4, -1.5), (6, -1.25):
        opened.save(step, STATE | {'step': jnp.int32(step)}, score)
    opened.close()
    return opened.folder


def find(folder: Path, step: int | str) -> int:
    opened = Checkpoints(folder, keep=2, base='a' * 64)
    try:
        return opened.find(step)
    finally:
        opened.close()


def test_a_damaged_score_hides_no_best(checkpoints):
    assert find(checkpoints, 'best') == 2
    metadata = checkpoints / '2' / '_CHECKPOINT_METADATA'
    worse = metadata.read_text().replace('"score": -1.0', '"score": -7.0')
    assert worse != metadata.read_text()
    metadata.write_text(worse)
    with pytest.raises(PicJaxError, match=r'checkpoint 2 is damaged: .*/_CHECKPOINT_METADATA has another SHA-256'):
        find(checkpoints, 'best')
    assert find(checkpoints, 'latest') == 6


def test_the_part_that_an_interrupted_deletion_leaves_is_no_damage(checkpoints):
    array_file(checkpoints / '2').unlink()
    assert find_damage(checkpoints / '2').missing
    assert set_damaged_aside(checkpoints) == []
    assert (checkpoints / '2').exists()


def test_an_older_damaged_checkpoint_is_set_aside_and_not_deleted(checkpoints):
    flip(array_file(checkpoints / '4'))
    (line,) = set_damaged_aside(checkpoints)
    assert line.startswith('checkpoint 4 is damaged and was renamed')
    assert sorted(path.name for path in checkpoints.iterdir()) == ['2', '4.damaged.1', '6']


def test_a_second_damaged_checkpoint_of_a_step_does_not_replace_the_first(checkpoints):
    flip(array_file(checkpoints / '6'))
    copy = shutil.copytree(checkpoints / '6', checkpoints.parent / 'copy')
    set_damaged_aside(checkpoints)
    copy.rename(checkpoints / '6')
    set_damaged_aside(checkpoints)
    assert sorted(path.name for path in checkpoints.iterdir()) == ['2', '4', '6.damaged.1', '6.damaged.2']


def test_a_checkpoint_without_checksums_is_read(checkpoints):
    (checkpoints / '6' / NAME).unlink()
    assert set_damaged_aside(checkpoints) == []
    assert find(checkpoints, 'latest') == 6


def test_what_a_killed_save_left_is_deleted_by_the_next_run_and_not_by_a_reader(checkpoints):
    """To a reader it may be a save that is going on."""
    left = checkpoints / '7.orbax-checkpoint-tmp'
    left.mkdir()
    reader = Checkpoints(checkpoints, keep=2, base='a' * 64, saves=False)
    reader.close()
    assert left.exists()
    run = Checkpoints(checkpoints, keep=2, base='a' * 64)
    run.save(8, STATE)
    run.close()
    assert not left.exists()
    assert find(checkpoints, 'latest') == 8


def test_orbax_itself_takes_flipped_bits_for_numbers(checkpoints):
    """Why there are checksums. Where this fails, Orbax has learned to notice."""
    opened = Checkpoints(checkpoints, keep=2, base='a' * 64)
    # The end of the file is the last array's data.
    flip(array_file(checkpoints / '6'), -1 + array_file(checkpoints / '6').stat().st_size // 2)
    try:
        wrong = opened.restore(6, STATE)
    finally:
        opened.close()
    assert not np.array_equal(wrong['weights'], STATE['weights'])


@pytest.mark.slow
def test_every_damage_to_every_file_is_noticed_or_harmless(checkpoints, tmp_path):
    rows = damage.damage_every_file(checkpoints.parent, tmp_path / 'copy', seed=0)
    assert [row for row in rows if row['outcome'] not in damage.RIGHT] == []
    # The checksums themselves, and the file that only says that the checkpoint is complete, are not needed to read it.
    harmless = {row['file'] for row in rows if row['outcome'] == damage.SAME}
    assert harmless <= {'6/commit_success.txt', f'6/{NAME}', '6/_CHECKPOINT_METADATA'}
    needed = {f'6/{name}' for name in contents(checkpoints / '6')} - harmless
    assert {row['file'] for row in rows if row['outcome'] == damage.EARLIER} >= needed
    assert len(needed) >= 8
