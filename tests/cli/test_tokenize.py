"""`pic-jax tokenize`, and training from what it makes."""

import json
import subprocess
import sys

import pytest

from pic_jax.cli.main import main
from pic_jax.training.telemetry import MEASURED


def tokenize(*words):
    return main(['tokenize', *map(str, words)])


@pytest.fixture
def command(tiny_target, text_data, tmp_path):
    """The words of a command for 24 documents in shards of 5."""
    return [text_data, f'--base={tiny_target}', f'--out={tmp_path / "tokens"}', '--documents_per_shard=5', '--json']


def records(workdir):
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith(MEASURED)} for record in found]


@pytest.mark.slow
def test_a_run_from_shards_is_the_run_from_the_text(command, tmp_path, tiny_config_file, text_data, capsys):
    """Order, windows, validation: every number of both runs is the same, bit for bit."""
    assert tokenize(*command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {
        'folder': str(tmp_path / 'tokens'), 'complete': True, 'written': 5, 'host': 0, 'hosts': 1,
        'documents': 24, 'tokens': summary['tokens'], 'longest': summary['longest'], 'shards': 5,
    }  # fmt: skip
    for name, source in ('text', text_data), ('shards', f'arrayrecord:{tmp_path / "tokens"}'):
        words = ['--config.train.steps=2', '--config.train.eval_every=2', f'--config.data.source={source}']
        assert main(['train', f'--config={tiny_config_file}', f'--workdir={tmp_path / name}', *words]) == 0
    assert records(tmp_path / 'shards') == records(tmp_path / 'text')
    assert [record['split'] for record in records(tmp_path / 'shards')] == [
        'validation',
        'train',
        'train',
        'validation',
    ]


def test_hosts_share_a_folder_and_the_last_one_finishes(command, tmp_path, capsys):
    for host in (2, 0):
        assert tokenize(*command, f'--shard={host}/3') == 0
        assert json.loads(capsys.readouterr().out)['complete'] is False
    assert tokenize('--finish', f'--out={tmp_path / "tokens"}') == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'tokens-00001.arrayrecord, tokens-00004.arrayrecord not finished' in said
    assert tokenize(*command, '--shard=1/3') == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary['complete'], summary['written'], summary['shards']) == (True, 2, 5)
    (tmp_path / 'tokens' / 'index.json').unlink()
    assert tokenize('--finish', f'--out={tmp_path / "tokens"}') == 0
    assert capsys.readouterr().out.startswith(
        f'{tmp_path / "tokens"}: 0 shards written; complete: 5 shards, 24 documents'
    )


def test_the_same_command_does_nothing_twice(command, capsys):
    tokenize(*command)
    first = json.loads(capsys.readouterr().out)
    assert tokenize(*command) == 0
    assert json.loads(capsys.readouterr().out) == first | {'written': 0}


@pytest.mark.parametrize(
    ('words', 'code', 'said'),
    [
        (['--shard=3/3'], 2, '--shard=3/3 is not valid: expected I/N with I from 0 to N - 1'),
        (['--shard=1'], 2, '--shard=1 is not valid'),
        (['--documents_per_shard=0'], 2, '--documents_per_shard=0 is not valid: expected a positive number'),
        (['--limit=0'], 2, '--limit=0 is not valid'),
        (['--finish'], 2, '--finish reads no source'),
        (['--revision=main'], 2, '--revision=main is not valid for'),
        (['--base=no/such/folder'], 1, 'no/such/folder is not a folder'),
        (['--base=hub:tiny'], 2, 'expected hub:owner/name'),
        (['--out=/dev/null/x'], 1, '/dev/null/x'),
        (['--surplus'], 2, 'unknown argument --surplus'),
    ],
)
def test_bad_usage(command, tmp_path, capsys, words, code, said):
    assert tokenize(*command, *words) == code
    captured = capsys.readouterr()
    assert said in captured.err.splitlines()[-1]
    assert captured.out == ''
    assert not (tmp_path / 'tokens').exists()


def test_without_a_source_or_an_end(tmp_path, capsys):
    assert tokenize(f'--out={tmp_path}') == 2
    assert 'expected SOURCE and --base, or --finish' in capsys.readouterr().err
    assert tokenize(f'--out={tmp_path}', '--finish') == 1
    assert 'no host has reached the end of the source yet' in capsys.readouterr().err
    for name, value in ('limit', 7), ('shard', '1/3'), ('revision', 'main'), ('documents_per_shard', 5):
        assert tokenize(f'--out={tmp_path}', '--finish', f'--{name}={value}', '--json') == 2
        assert f'expected --finish and --out alone, not {name}={value}' in capsys.readouterr().err


def test_other_settings_in_the_same_folder(command, tmp_path, capsys):
    tokenize(*command)
    before = {path: path.read_bytes() for path in (tmp_path / 'tokens').iterdir()}
    assert tokenize(*command, '--documents_per_shard=6') == 2
    assert 'was made with documents_per_shard=5, not with documents_per_shard=6' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / 'tokens').iterdir()} == before


def test_a_source_with_a_variable_is_that_file(command, tmp_path, monkeypatch, capsys):
    """Else passages of other sizes would be joined, and the header would hold the variable."""
    notes = tmp_path / 'notes.txt'
    notes.write_text('Mara lives in Stonehaven.\n\n' * 40)
    monkeypatch.setenv('NOTES', str(notes))
    assert tokenize('$NOTES', *command[1:], '--passage_tokens=30') == 0
    header = json.loads((tmp_path / 'tokens' / 'index.json').read_text())
    assert (header['source'], header['passage_tokens']) == ('notes.txt', 30)
    assert tokenize(notes, *command[1:], '--passage_tokens=30') == 0
    assert tokenize('$NOTES', *command[1:], '--passage_tokens=31') == 2
    assert 'was made with passage_tokens=30, not with passage_tokens=31' in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_finished(command, tmp_path, text_data):
    """SIGKILL while the third shard waits for its documents, which come through a pipe; then a run from the file."""
    script = (
        'import os, sys, signal\n'
        'from pic_jax.cli.main import main\n'
        'from pic_jax.data import stream\n'
        'documents = stream.documents\n'
        'def killed(*args):\n'
        '    for number, document in enumerate(documents(*args)):\n'
        '        if number == 12:\n'
        '            os.kill(os.getpid(), signal.SIGKILL)\n'
        '        yield document\n'
        'stream.documents = killed\n'
        'main(sys.argv[1:])\n'
    )
    done = subprocess.run([sys.executable, '-c', script, 'tokenize', *map(str, command)], capture_output=True)
    assert done.returncode == -9
    folder = tmp_path / 'tokens'
    assert sorted(path.name for path in folder.glob('tokens-*')) == [
        'tokens-00000.arrayrecord', 'tokens-00000.json', 'tokens-00001.arrayrecord', 'tokens-00001.json',
    ]  # fmt: skip
    assert list(folder.glob('.*.tmp'))
    assert tokenize(*command) == 0
    assert not list(folder.glob('.*.tmp'))
    assert tokenize(*command[:2], f'--out={tmp_path / "whole"}', *command[3:]) == 0
    ours, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ('tokens', 'whole')
    )
    assert ours == whole
