"""Every mistake is one clear line, an exit code, and nothing half-written."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest

from pic_jax.cli.main import main
from pic_jax.interop import context_files

GOLDEN = Path(__file__).parents[1] / 'interop' / 'golden_contexts.safetensors'
PRETRAIN = Path(__file__).parents[2] / 'configs' / 'tiny_base.py'
LONG = '1' * 5000  # int() refuses more than 4,300 digits


def failed(capsys, *said: str) -> None:
    """Checks stderr after `main` returned 1 or 2: one error line, the last, that holds everything in `said`."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    errors = [line for line in lines if line.startswith('pic-jax: error:')]
    assert len(errors) == 1, captured.err
    assert lines[-1] == errors[0]
    assert 'Traceback' not in captured.err
    assert captured.out == ''
    for words in said:
        assert words in errors[0]


CONFIGS = {
    'fails.py': 'def get_config():\n    return 1 / 0\n',
    'none.py': 'x = 1\n',
    'returns_none.py': 'def get_config():\n    pass\n',
    'syntax.py': 'def get_config(:\n',
    'config.txt': 'seed = 1\n',
}

# Settings on the command line, the exit code, and what the line must say.
SETTINGS = [
    (['--config.compressor.ration=4'], 2, ['unknown config key compressor.ration', 'did you mean compressor.ratio?']),
    (['--config.comprassor.ratio=4'], 2, ['unknown config key comprassor', 'did you mean compressor?']),
    (['--config.seed.x=4'], 2, ['unknown config key seed.x']),
    (['--config.train.steps'], 2, ['--config.train.steps: expected --config.KEY=VALUE']),
    (['--config.train=4'], 2, ['train is a group of settings', 'steps']),
    (['--config.train.steps=many'], 2, ["train.steps='many'", 'int']),
    (['--config.train.steps=1.5'], 2, ['train.steps=1.5', 'int']),
    (['--config.train.steps=True'], 2, ['train.steps=True', 'int']),
    (['--config.train.steps='], 2, ["train.steps=''"]),
    (['--config.train.steps=0'], 2, ['train.steps=0', 'a positive number']),
    (['--config.train.microbatches=3'], 2, ['train.microbatches=3', 'a divisor of train.batch_size=4']),
    (['--config.compressor.ratio=3'], 2, ['compressor.chunk_size=8', 'a multiple of compressor.ratio=3']),
    (['--config.compressor.method=pik'], 2, ["compressor.method='pik'", 'icae, epl, pic']),
    (['--config.compressor.positions=end', '--config.compressor.position_origin=chunk',
      '--config.compressor.context_sees=causal'], 2, ['compressor.position_origin']),
    (['--config.objective.lm=0'], 2, ['objective', 'a positive weight for one of ae, lm, ft, words']),
    (['--config.objective.ft=1'], 2, ['objective.ft has no data', 'text.jsonl:1']),
    (['--config.base=$PIC_JAX_NOT_SET/model'], 2, ['PIC_JAX_NOT_SET is not set']),
    (['--config.base='], 2, ["base=''", 'the folder of a model']),
    (['--config.base=no/such/folder'], 1, ['no/such/folder']),
    (['--config.prompt_template=chat'], 2, ["prompt_template='chat'", 'no chat template']),
    (['--config.decoder_prefix=(0, 600)'], 2, ['decoder_prefix=(0, 600)', 'ids below 600']),
    (['--config.seed=-1'], 2, ['seed=-1', '0 to 4294967295']),
    (['--config.data.source=$PIC_JAX_NOT_SET/x.jsonl'], 2, ['PIC_JAX_NOT_SET is not set']),
    (['--config.data.source=no_such.jsonl'], 1, ['no_such.jsonl: cannot be read', 'No such file']),
    (['--config.data.source=no_such.csv'], 2, ['no_such.csv', 'expected a .jsonl, .json, .txt or .md file']),
    (['--config.data.source=empty.jsonl'], 1, ['empty.jsonl is empty']),
    (['--config.data.source=blank.jsonl'], 1, ['blank.jsonl is empty']),
    (['--config.data.source=broken.jsonl'], 1, ['broken.jsonl:2']),
    (['--config.data.source=fields.jsonl'], 1, ['fields.jsonl:2', 'expected text, or context (or input) with prompt']),
    (['--config.data.source=latin.txt'], 1, ['latin.txt: byte 3 is not UTF-8 text']),
    (['--config.data.validation=400'], 2, ['data.validation=400', 'the 24 groups of the source']),
    (['--config.data.min_context=23', '--config.data.target_length=450'], 1, ['all 15 documents are too short']),
    (['--config.data.buckets=(8, 16)'], 2, ['data.buckets=(8, 16)', 'data.context_length=24']),
    (['--config.data.target_length=508', '--config.data.source=long.jsonl'], 2, ['objective.lm needs 516 positions',
                                                                                'the model has 512']),
    (['--unknown=4'], 2, ['unknown argument --unknown=4']),
    (['surplus'], 2, ['unknown argument surplus']),
    (['--confg.train.steps=4'], 2, ['unknown argument --confg.train.steps=4']),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with broken files in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PIC_JAX_NOT_SET', raising=False)
    for name, text in CONFIGS.items():
        Path(name).write_text(text)
    Path('empty.jsonl').write_text('')
    Path('blank.jsonl').write_text(' \n\n')
    Path('broken.jsonl').write_text('{"text": "good"}\n{"text": \n{"text": "good"}\n')
    Path('fields.jsonl').write_text('{"text": "good"}\n{"txet": "bad"}\n')
    Path('latin.txt').write_bytes('caf\u00e9'.encode('latin-1'))
    Path('long.jsonl').write_text(''.join(json.dumps({'text': f'{n} ' + 'word ' * 800}) + '\n' for n in range(24)))
    return tmp_path


@pytest.mark.parametrize(('words', 'code', 'said'), SETTINGS, ids=[' '.join(words) for words, *_ in SETTINGS])
def test_train_refuses(here, tiny_config_file, capsys, words, code, said):
    assert main(['train', f'--config={tiny_config_file}', '--workdir=run', *words]) == code
    failed(capsys, *said)
    assert not Path('run').exists()


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (
            ['--config.data.context_length=520', '--config.compressor.context_length=520'],
            'the context needs 520 position ids but the model has 512',
        ),
        (['--config.compressor.memory_embeddings=per_window', '--config.compressor.context_length=16'], '16'),
    ],
)
def test_train_refuses_contexts_that_the_encoder_cannot_read(here, tiny_config_file, capsys, words, said):
    command = ['train', f'--config={tiny_config_file}', '--workdir=run', '--config.data.source=long.jsonl', *words]
    assert main(command) == 2
    failed(capsys, said)
    assert not Path('run').exists()


def test_train_without_validation_data_is_refused_or_works(here, tiny_config_file):
    words = ['--config.data.validation=0', '--config.train.steps=1']
    assert main(['train', f'--config={tiny_config_file}', '--workdir=run', *words]) in (0, 1, 2)


def test_pretrain_has_no_compressor(here, capsys):
    words = ['--config.compressor.method=icae']
    assert main(['pretrain', f'--config={PRETRAIN}', '--workdir=run', *words]) == 2
    failed(capsys, 'unknown config key compressor')
    assert not Path('run').exists()


def test_train_refuses_a_workdir_that_is_a_file(here, tiny_config_file, capsys):
    Path('run').write_text('mine')
    assert main(['train', f'--config={tiny_config_file}', '--workdir=run']) in (1, 2)
    failed(capsys, 'run')
    assert Path('run').read_text() == 'mine'


@pytest.mark.parametrize('verb', ['train', 'pretrain'])
@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('missing.py', 'no such file'),
        ('fails.py', 'ZeroDivisionError'),
        ('none.py', 'get_config'),
        ('returns_none.py', 'to_dict'),
        ('syntax.py', 'SyntaxError'),
        ('config.txt', 'expected a Python file'),
        ('', 'no such file'),
    ],
)
def test_a_configuration_file_that_cannot_be_used(here, capsys, verb, name, said):
    assert main([verb, f'--config={name}', '--workdir=run']) == 2
    failed(capsys, f'--config={name}: ', said)
    assert not Path('run').exists()


def test_train_refuses_the_workdir_of_another_run(finished_workdir, tiny_config_file, capsys):
    before = {path: path.read_bytes() for path in finished_workdir.rglob('*') if path.is_file()}
    words = ['--config.compressor.ratio=2', '--config.seed=1', '--config.train.steps=5']
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={finished_workdir}', *words]) == 2
    failed(capsys, 'compressor.ratio: 4 -> 2', 'seed: 0 -> 1')
    assert {path: path.read_bytes() for path in finished_workdir.rglob('*') if path.is_file()} == before


@pytest.mark.parametrize(
    ('words', 'code', 'said'),
    [
        (['eval', '--workdir=empty'], 1, 'empty is not a workdir'),
        (['eval', '--workdir=tiny_base/pic'], 2, 'leaves no text to score'),
        (['eval', '--workdir=missing'], 1, 'missing is not a workdir'),
        (['eval', '--workdir=missing', '--examples=0'], 2, '--examples=0'),
        (['eval', '--workdir=tiny_base/pic', f'--mesh=fsdp={LONG}'], 2, '--mesh=fsdp=1'),
        (['tokenize', 'note.txt', '--base=b', '--out=out', f'--shard=0/{LONG}'], 2, '--shard=0/1'),
        (['eval', '--workdir=missing', 'surplus'], 2, 'unknown argument surplus'),
        (['plot', 'missing'], 1, 'missing'),
        (['compress', '--workdir=missing', '-', '--out=out'], 1, 'standard input is empty'),
        (['compress', '--workdir=missing', 'missing.txt', '--out=out'], 1, 'missing.txt: cannot be read'),
        (['compress', '--workdir=missing', 'empty.jsonl', '--out=out'], 1, 'empty.jsonl is empty'),
        (['compress', '--workdir=missing', 'broken.jsonl', '--out=out'], 1, 'broken.jsonl:2'),
        (['compress', '--workdir=missing', 'fields.jsonl', '--out=out'], 1, 'fields.jsonl:2'),
        (['compress', '--workdir=missing', 'none.py', '--out=out'], 1, 'missing is not a workdir'),
        (['compress', '--workdir=missing', 'none.py', '--out=fails.py'], 2, '--out=fails.py exists'),
        (['compress', '--workdir=missing', 'none.py', '--out=out', '--config.seed=1'], 2, 'unknown argument'),
        (['ask', '--workdir=missing', 'missing.safetensors', 'why?'], 1, 'missing.safetensors'),
        (['ask', '--workdir=missing', 'none.py', 'why?'], 1, 'none.py'),
        (['ask', '--workdir=missing', str(GOLDEN), 'why?', '--row=2'], 2, '--row=2 is not valid'),
        (['ask', '--workdir=missing', str(GOLDEN), 'why?', '--row=-1'], 2, '--row=-1 is not valid'),
        (['ask', '--workdir=missing', str(GOLDEN), 'why?', '--max_new_tokens=0'], 2, 'max_new_tokens=0 is not valid'),
        (['ask', '--workdir=missing', str(GOLDEN), 'why?', '--top_p=0'], 2, 'top_p'),
        (['ask', '--workdir=missing', str(GOLDEN), 'why?'], 1, 'missing is not a workdir'),
    ],
)
def test_the_other_verbs_refuse(here, capsys, monkeypatch, words, code, said):
    Path('empty').mkdir()
    before = sorted(here.rglob('*'))
    monkeypatch.setattr(sys, 'stdin', io.StringIO(' \n'))
    assert main(words) == code
    failed(capsys, said)
    assert sorted(here.rglob('*')) == before


@pytest.mark.parametrize(
    'words',
    [[], ['nonsense'], ['train'], ['train', '--config=x.py'], ['compress', '--workdir=x', '--out=y'],
     ['ask', '--workdir=x', 'y', 'z', '--row=first'], ['eval', '--workdir=x', '--split=everything']],
)  # fmt: skip
def test_usage_errors_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert 'error: ' in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--config.seed=5'], '--config.seed is what the compressor was trained with'),
        (['--config.compressor.ratio=2'], '--config.compressor is what the compressor was trained with'),
        (['--config.data.sauce=x'], 'did you mean data.source?'),
    ],
)
def test_eval_changes_nothing_but_data(finished_workdir, capsys, words, said):
    assert main(['eval', f'--workdir={finished_workdir}', *words]) == 2
    failed(capsys, said)
    assert not (finished_workdir / 'results.json').exists()


def test_eval_refuses_text_that_does_not_fit_the_decoder(here, finished_workdir, capsys):
    words = ['--config.data.source=long.jsonl', '--config.data.target_length=508', '--examples=2']
    assert main(['eval', f'--workdir={finished_workdir}', *words]) == 2
    failed(capsys, 'needs 516 positions')


@pytest.fixture(scope='module')
def stored_file(trained_workdir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('stored') / 'stored.safetensors'
    text = out.with_name('note.txt')
    text.write_text('Mara lives in Stonehaven.')
    assert main(['compress', f'--workdir={trained_workdir}', str(text), f'--out={out}']) == 0
    return out


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(compressor_sha256='0' * 64), 'the contexts were made by compressor 000000000000, not by this one'),
        (dict(target='another/model'), "made for target='another/model'"),
    ],
)
def test_ask_refuses_contexts_of_another_compressor(here, trained_workdir, stored_file, capsys, changes, said):
    stored = context_files.read(stored_file)
    other = dataclasses.replace(stored, metadata=dataclasses.replace(stored.metadata, **changes))
    context_files.write('other.safetensors', other)
    capsys.readouterr()
    assert main(['ask', f'--workdir={trained_workdir}', 'other.safetensors', 'Where?']) == 1
    failed(capsys, said)


def test_ask_refuses_more_tokens_than_the_decoder_has_positions(trained_workdir, stored_file, capsys):
    capsys.readouterr()
    command = ['ask', f'--workdir={trained_workdir}', str(stored_file), 'Where?', '--max_new_tokens=510']
    assert main(command) == 2
    failed(capsys, '510 new tokens', 'the model has 512')


def test_a_workdir_without_checkpoint_is_refused(here, trained_workdir, capsys):
    Path('run').mkdir()
    Path('run/config.json').write_bytes((trained_workdir / 'config.json').read_bytes())
    assert main(['compress', '--workdir=run', 'none.py', '--out=out']) == 1
    failed(capsys, 'run has no checkpoint yet')
    assert sorted(path.name for path in Path('run').rglob('*')) == ['config.json']


def test_compress_refuses_what_the_compressor_cannot_hold(here, trained_workdir, capsys):
    Path('long.txt').write_text('word ' * 2000)
    assert main(['compress', f'--workdir={trained_workdir}', 'long.txt', '--out=out']) == 2
    failed(capsys, 'position ids but the model has 512')
    assert not Path('out').exists()
