"""Where compiled programs are kept by default."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pic_jax import compile_cache


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The variables that matter, and nothing set by the tests' own configuration."""
    for name in compile_cache.VARIABLE, compile_cache.LIMIT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    yield monkeypatch
    os.environ.pop(compile_cache.VARIABLE, None)
    os.environ.pop(compile_cache.LIMIT, None)


def test_the_default_is_in_the_users_cache_and_bounded(environment, tmp_path):
    compile_cache.set_default()
    folder = Path(os.environ[compile_cache.VARIABLE])
    assert folder.parent == tmp_path / 'cache' / 'pic_jax' / 'compiled'
    assert folder.is_dir()
    assert os.environ[compile_cache.LIMIT] == str(10 * 2**30)


@pytest.mark.parametrize('value', ['', '/somewhere'])
def test_what_the_user_has_said_stays(environment, tmp_path, value):
    environment.setenv(compile_cache.VARIABLE, value)
    compile_cache.set_default()
    assert os.environ[compile_cache.VARIABLE] == value
    assert not (tmp_path / 'cache').exists()


def test_without_a_place_for_it_there_is_none(environment, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    compile_cache.set_default()
    assert compile_cache.VARIABLE not in os.environ


def test_without_a_home_there_is_none(environment):
    def expanduser(path):
        raise RuntimeError('Could not determine home directory.')

    environment.delenv('XDG_CACHE_HOME')
    environment.setattr(Path, 'expanduser', expanduser)
    compile_cache.set_default()
    assert compile_cache.VARIABLE not in os.environ


@pytest.mark.slow
def test_a_second_call_finds_what_the_first_compiled(tmp_path, tiny_config_file):
    """Compiled programs are loaded (JAX touches what it reads), none is added, and the records are the same."""
    env = {name: value for name, value in os.environ.items() if name != compile_cache.VARIABLE}
    env |= {'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    stored, losses = [], []
    for name in 'first', 'second':
        command = [sys.executable, '-m', 'pic_jax.cli.main', 'train', f'--config={tiny_config_file}']
        done = subprocess.run(
            [*command, f'--workdir={tmp_path / name}'], env=env, capture_output=True, text=True, check=True
        )
        stored.append({path.name: path.read_bytes() for path in (tmp_path / 'cache').rglob('*-atime')})
        losses.append([line.split('  ')[1] for line in done.stderr.splitlines() if '  loss ' in line])
    assert stored[0].keys() == stored[1].keys()
    assert stored[0]
    assert all(stored[0][name] != stored[1][name] for name in stored[0])
    assert losses[0] == losses[1] != []
