"""The sweeps that ship: every row has valid settings and a name of its own, in both stages."""

from pathlib import Path

import pytest

from pic_jax.cli.settings import load_file, load_sweep, resolve
from pic_jax.evaluation.ablation import Row, groups

FILES = sorted((Path(__file__).parents[2] / 'configs' / 'sweeps').glob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(('stage', 'objective'), [('words', 'words'), ('answers', 'ft')])
def test_rows_are_valid(path, stage, objective):
    rows = []
    for overrides in load_sweep(f'{path}:{stage}'):
        words = [f'--config.{key}={value!r}' for key, value in overrides.items()]
        rows.append(Row(overrides, resolve(load_file(f'{path}:{stage}'), words)))
    assert len({row.name for row in rows}) == len(rows) >= 15
    assert {row.config.seed for row in rows} == {0, 1, 2}
    assert [len(group) for group in groups(rows)] == [3] * (len(rows) // 3)
    assert all(getattr(row.config.objective, objective) == 1 for row in rows)
    assert len({row.config.compressor for row in rows}) == len(rows) // 3
