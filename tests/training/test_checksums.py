"""What a file of checksums notices, and what it does not mind."""

import json

import pytest

from pic_jax.training.checksums import NAME, find_damage, write_checksums

METADATA = {'custom_metadata': {'base': 'ab', 'score': -2.5}, 'init_timestamp_nsecs': 1}


@pytest.fixture
def checkpoint(tmp_path):
    """Two files and Orbax's own, as they are when a checkpoint is about to be complete."""
    (tmp_path / 'default' / 'd').mkdir(parents=True)
    (tmp_path / 'default' / 'd' / 'numbers').write_bytes(bytes(range(256)))
    (tmp_path / 'default' / 'empty').write_bytes(b'')
    (tmp_path / '_CHECKPOINT_METADATA').write_text(json.dumps(METADATA))
    write_checksums(tmp_path)
    return tmp_path


def test_every_file_is_listed(checkpoint):
    listed = json.loads((checkpoint / NAME).read_text())['sha256']
    assert sorted(listed) == ['_CHECKPOINT_METADATA', 'default/d/numbers', 'default/empty']
    # sha256 of nothing, FIPS 180-4
    assert listed['default/empty'].startswith('e3b0c44298fc1c149afbf4c8996fb924')


def test_what_orbax_does_afterwards_is_no_damage(checkpoint):
    (checkpoint / '_CHECKPOINT_METADATA').write_text(json.dumps(METADATA | {'commit_timestamp_nsecs': 2}))
    (checkpoint / 'commit_success.txt').write_text('Checkpoint commit was successful')
    assert find_damage(checkpoint) is None


def test_a_file_that_changed_is_named(checkpoint):
    (checkpoint / 'default' / 'd' / 'numbers').write_bytes(bytes(range(255)) + b'\0')
    assert find_damage(checkpoint).text == f'{checkpoint}/default/d/numbers has another SHA-256 than when it was saved'
    assert not find_damage(checkpoint).missing


def test_a_file_that_is_gone_is_named(checkpoint):
    (checkpoint / 'default' / 'empty').unlink()
    assert find_damage(checkpoint) == (f'{checkpoint}/default/empty is missing', True)


@pytest.mark.parametrize(
    'text', ['', '{"custom', '[]', json.dumps(METADATA | {'custom_metadata': {'base': 'ab', 'score': -2.4}})]
)
def test_metadata_that_changed_is_damage(checkpoint, text):
    (checkpoint / '_CHECKPOINT_METADATA').write_text(text)
    assert '_CHECKPOINT_METADATA has another SHA-256' in find_damage(checkpoint).text


@pytest.mark.parametrize(
    'text', ['', '{"sha256": {', '[]', '{}', '{"sha256": []}', '{"sha256": {"a\\u0000": ""}}', '\u00ff']
)
def test_checksums_that_changed_are_damage(checkpoint, text):
    (checkpoint / NAME).write_text(text, 'latin-1')
    assert find_damage(checkpoint) is not None


def test_an_older_checkpoint_has_none(checkpoint):
    (checkpoint / NAME).unlink()
    assert find_damage(checkpoint) is None
