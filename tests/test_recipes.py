"""The compressors that ship were trained with the settings that the repository names for them."""

from pathlib import Path

import pytest

from pic_jax.cli.settings import load_file, resolve
from pic_jax.config import RunConfig, to_mapping
from pic_jax.run import TINY_BASE
from pic_jax.training.workdir import flat, read_config

CONFIG = Path(__file__).parents[1] / 'configs' / 'tiny_compressors.py'


@pytest.mark.parametrize('method', ['pic', 'icae'])
def test_shipped_compressors_have_the_settings_of_their_recipe(method):
    recipe = flat(to_mapping(resolve(load_file(f'{CONFIG}:{method}'), [])))
    shipped = flat(to_mapping(read_config(TINY_BASE / method, RunConfig)))
    assert {key: (value, shipped[key]) for key, value in recipe.items() if shipped[key] != value} == {
        'decoder_prefix': (None, (0,))  # resolved when the run was opened
    }
