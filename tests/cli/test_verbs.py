"""Every verb as a user calls it, on a workdir of seconds."""

import copy
import csv
import importlib
import io
import json
import sys

import pytest

from pic_jax.cli.main import VERBS, main
from pic_jax.cli.settings import resolve
from pic_jax.config import CompressorConfig, ObjectiveConfig, RunConfig
from pic_jax.interop import context_files
from pic_jax.training.workdir import write_config

KEYS = ['method', 'ratio', 'k', 'task', 'metric', 'value', 'low', 'high', 'n']
METHODS = ['pic', 'full_context', 'truncate_last_k', 'truncate_first_k', 'shuffled_memory', 'no_context']


@pytest.mark.parametrize('verb', VERBS)
def test_help_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, '--help'])
    assert stopped.value.code == 0
    captured = capsys.readouterr()
    assert 'example' in captured.out
    assert f'pic-jax {verb}' in captured.out.split('example', 1)[1]
    assert captured.err == ''


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(['--help'])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert f'  {verb} ' in out
        assert importlib.import_module(f'pic_jax.cli.{verb}').HELP.split()[0] in out


def test_train_leaves_the_files_of_the_contract(trained_workdir, tiny_settings):
    assert sorted(path.name for path in trained_workdir.iterdir()) == [
        'checkpoints', 'config.json', 'environment.json', 'metrics.jsonl', 'report.html',
    ]  # fmt: skip
    assert sorted(path.name for path in (trained_workdir / 'checkpoints').iterdir()) == ['2', '4']
    page = (trained_workdir / 'report.html').read_text('utf-8')
    assert 'Parts of this page are missing: <a href="#results">Results</a>, <a href="#samples">Samples</a>.' in page
    config = json.loads((trained_workdir / 'config.json').read_text())
    assert config['decoder_prefix'] == [0]  # resolved to the target's BOS
    assert config['compressor']['context_sees'] == 'chunk'  # and to the preset's options
    for key, value in tiny_settings.items():
        node = config
        for name in key.split('.'):
            node = node[name]
        assert node == value
    records = [json.loads(line) for line in (trained_workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [(r['split'][:5], r['step']) for r in records] == [
        ('valid', 0), ('train', 1), ('train', 2), ('valid', 2), ('train', 3), ('train', 4), ('valid', 4),
    ]  # fmt: skip
    for record in records:
        if record['split'] == 'validation':
            assert {f'lm_nats_{method}' for method in METHODS[1:]} <= set(record)
            assert record['loss'] == record['lm_nats']
        else:
            assert record['lm_tokens'] == 4 * 8
            assert {'tokens_per_s', 'elapsed_s'} <= set(record)


def test_train_again_says_what_it_does_and_prints_the_workdir(finished_workdir, tiny_config_file, capsys):
    before = (finished_workdir / 'metrics.jsonl').read_bytes()
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={finished_workdir}']) == 0
    captured = capsys.readouterr()
    assert captured.out == f'{finished_workdir}\n'
    assert 'resumed from step 4' in captured.err
    assert 'devices: 1 x cpu' in captured.err
    assert 'attention: encoder dense (' in captured.err
    # 2 layers x 2 x (q, k, v, o) of rank 2, 2 memory embeddings, 3 special vectors.
    lora = 2 * 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32))
    assert f'parameters: {lora + 5 * 32:,} trained, ' in captured.err
    assert 'pic (chunks of 8, context sees chunk): ratio 4, 24 tokens -> k = 6 vectors' in captured.err
    assert '15 training examples, 4 a step, up to 96 context tokens a step' in captured.err
    assert (finished_workdir / 'metrics.jsonl').read_bytes() == before


def test_eval(finished_workdir, capsys):
    assert main(['eval', f'--workdir={finished_workdir}', '--json']) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert all(list(row) == KEYS for row in rows)
    assert [row['method'] for row in rows if row['metric'] == 'nats_per_token'] == METHODS
    assert {row['task'] for row in rows} == {'continuation'}
    assert {row['n'] for row in rows} == {5}
    stored = json.loads((finished_workdir / 'results.json').read_text())
    assert stored.pop('rows') == rows
    costs = stored.pop('costs')
    assert list(costs) == METHODS
    assert {len(cost) for cost in costs.values()} == {3}
    assert stored == {'split': 'test', 'source': stored['source'], 'seed': 0, 'step': 4}
    assert json.loads((finished_workdir / 'samples.json').read_text()) == {'answers': [], 'reconstructions': []}
    environments = json.loads((finished_workdir / 'environment.json').read_text())
    assert list(environments) == ['train', 'eval']
    assert environments['eval']['cores'] >= 1
    page = (finished_workdir / 'report.html').read_text('utf-8')
    assert 'Parts of this page are missing' not in page
    assert '<caption>continuation: 5 examples</caption>' in page
    lines = list(csv.DictReader((finished_workdir / 'results.csv').open()))
    assert [line['method'] for line in lines] == [row['method'] for row in rows]
    assert {float(line['compression_flops']) for line in lines if line['method'] == 'pic'} == {
        costs['pic']['compression_flops']
    }
    assert '5 examples' in captured.err


def test_eval_reads_the_checkpoint_that_it_is_told(finished_workdir, capsys):
    assert main(['eval', f'--workdir={finished_workdir}', '--step=2', '--examples=2', '--json']) == 0
    assert json.loads((finished_workdir / 'results.json').read_text())['step'] == 2
    older = [row for row in json.loads(capsys.readouterr().out) if row['method'] == 'pic']
    assert main(['eval', f'--workdir={finished_workdir}', '--examples=2', '--json']) == 0
    assert [row for row in json.loads(capsys.readouterr().out) if row['method'] == 'pic'] != older
    assert main(['eval', f'--workdir={finished_workdir}', '--step=3']) == 1
    assert 'step=3 is not valid: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('mesh', 'said'),
    [
        ('model=2', 'model=2 is not valid: expected AXIS=SIZE, AXIS of data, fsdp, tensor, context'),
        ('fsdp=two', 'fsdp=two is not valid'),
        ('fsdp', 'fsdp is not valid'),
        ('tensor=2,fsdp=0', 'mesh.fsdp=0 is not valid'),
        ('fsdp=7', 'mesh'),
    ],
)
def test_a_mesh_to_read_on_is_checked(trained_workdir, capsys, mesh, said):
    assert main(['eval', f'--workdir={trained_workdir}', f'--mesh={mesh}']) == 2
    assert said in capsys.readouterr().err


def test_eval_prints_a_table_of_another_split(finished_workdir, capsys):
    assert main(['eval', f'--workdir={finished_workdir}', '--split=train', '--examples=5']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['task', 'method', 'ratio', 'k', 'nats/token', 'share', 'of', 'gap']
    assert [line.split()[1] for line in lines[1 : 1 + len(METHODS)]] == METHODS
    assert lines[-len(METHODS) - 1].split() == [
        'method',
        'compression',
        'GFLOPs',
        'stored',
        'bytes',
        'first',
        'token,',
        'ms',
    ]
    assert [line.split()[0] for line in lines[-len(METHODS) :]] == METHODS
    assert (finished_workdir / 'results.json').exists()


def test_compress_then_ask(tmp_path, trained_workdir, capsys, monkeypatch):
    note, lines, out = tmp_path / 'note.txt', tmp_path / 'lines.jsonl', tmp_path / 'out.safetensors'
    note.write_text('Mara lives in Stonehaven and sells plums.')
    lines.write_text('{"text": "Short."}\n\n{"context": "Another text, which is rather a bit longer than that."}\n')
    monkeypatch.setattr(sys, 'stdin', io.StringIO('From a pipe.'))
    command = ['compress', f'--workdir={trained_workdir}', str(note), str(lines), '-', f'--out={out}']
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == f'{out}\n'
    assert '4 of 4 contexts' in captured.err
    stored = context_files.read(out)
    assert stored.metadata.ids == ('note.txt', 'lines.jsonl:1', 'lines.jsonl:3', '-')
    for tokens, k in zip(stored.metadata.source_tokens, stored.lengths, strict=True):
        full, rest = divmod(tokens, 8)
        assert k == 2 * full + -(-rest // 4)

    before = out.read_bytes()
    assert main([*command, '--overwrite']) == 1  # standard input is used up
    assert out.read_bytes() == before
    capsys.readouterr()

    answers = []
    for _ in range(2):
        assert main(['ask', f'--workdir={trained_workdir}', str(out), 'Mara', '--row=0', '--max_new_tokens=5']) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[0].endswith('\n')


def test_plot(finished_workdir, tmp_path, capsys):
    assert main(['plot', str(finished_workdir), '--out', str(tmp_path / 'pictures')]) == 0
    paths = capsys.readouterr().out.splitlines()
    assert paths == [str(tmp_path / 'pictures' / name) for name in ('loss.png', 'mask.png')]
    for path in paths:
        with open(path, 'rb') as file:
            assert file.read(8) == b'\x89PNG\r\n\x1a\n'


def test_plot_of_a_run_on_words_alone_without_a_mask(tmp_path, capsys):
    compressor = CompressorConfig.preset('constant_memory')
    write_config(tmp_path, RunConfig(compressor=compressor, objective=ObjectiveConfig(lm=0.0, words=1.0)))
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "split": "train", "loss": 2.0}\n')
    assert main(['plot', str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / 'plots' / 'loss.png')]


def test_another_method_leaves_what_it_cannot_have():
    settings = {'compressor': {'method': 'pic', 'chunk_size': 16, 'projector': 'linear'}}
    for method, projector in ('kv500x', 'none'), ('epl', 'linear'), ('pic', 'linear'):
        config = resolve(copy.deepcopy(settings), [f'--config.compressor.method={method}'])
        assert (config.compressor.method, config.compressor.projector) == (method, projector)
        assert config.compressor.chunk_size == (16 if method == 'pic' else None)
