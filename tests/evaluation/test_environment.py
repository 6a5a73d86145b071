"""Where numbers are made: the commit, and environment.json."""

import json
import shutil
import subprocess

import jax
import pytest

import pic_jax
from pic_jax.errors import PicJaxError
from pic_jax.evaluation.environment import commit, environment, record_environment


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, in which the package seems to lie."""
    if not shutil.which('git'):
        pytest.skip('git is not installed')

    def git(*words):
        identity = ['-c', 'user.name=x', '-c', 'user.email=x@example.org']
        subprocess.run(['git', *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / 'pic_jax').mkdir()
    (tmp_path / 'pic_jax' / '__init__.py').write_text('')
    git('init')
    git('add', '.')
    git('commit', '-m', 'x')
    monkeypatch.setattr(pic_jax, '__file__', str(tmp_path / 'pic_jax' / '__init__.py'))
    return tmp_path


def head(folder) -> str:
    """The whole hash, from git's own files."""
    name = (folder / '.git' / 'HEAD').read_text().removeprefix('ref: ').strip()
    return (folder / '.git' / name).read_text().strip()


def test_the_commit_says_whether_tracked_files_have_changed(repository):
    made = commit()
    assert len(made) >= 7
    assert head(repository).startswith(made)
    (repository / 'new').write_text('')
    assert commit() == made
    (repository / 'pic_jax' / '__init__.py').write_text('x = 1\n')
    assert commit() == f'{made}+'


def test_an_installed_package_has_no_commit(repository, monkeypatch):
    """The repository around a virtual environment is another project's."""
    package = repository / '.venv' / 'site-packages' / 'pic_jax'
    package.mkdir(parents=True)
    monkeypatch.setattr(pic_jax, '__file__', str(package / '__init__.py'))
    assert commit() is None


def test_without_git_the_commit_is_not_known(repository, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert commit() is None


def test_every_verb_has_its_own_environment(tmp_path):
    (tmp_path / 'environment.json').write_text('{"train": {"machine": "another"}, "eval": {"machine": "old"}}')
    record_environment(tmp_path, 'eval', environment())
    found = json.loads((tmp_path / 'environment.json').read_text())
    assert found['train'] == {'machine': 'another'}
    assert found['eval'] | {'time': ''} == environment() | {'time': ''}
    assert (found['eval']['jax'], found['eval']['devices']) == (jax.__version__, len(jax.devices()))


def test_a_broken_file_is_kept_and_named(tmp_path):
    (tmp_path / 'environment.json').write_text('{"train":')
    with pytest.raises(PicJaxError, match=r'environment\.json: not valid JSON'):
        record_environment(tmp_path, 'eval', environment())
    assert (tmp_path / 'environment.json').read_text() == '{"train":'
