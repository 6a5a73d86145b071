"""The verbs `contexts` and `plot`, called as main.py calls them."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from pic_jax.cli import contexts as contexts_verb
from pic_jax.cli import plot as plot_verb
from pic_jax.config import RunConfig, from_mapping, to_mapping
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation import plots
from pic_jax.interop import context_files

GOLDEN = Path(__file__).parents[1] / 'interop' / 'golden_contexts.safetensors'


def name(verb) -> str:
    return verb.__name__.rpartition('.')[2]


def call(verb, *arguments) -> int:
    parser = argparse.ArgumentParser(
        prog=name(verb), epilog=verb.EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(argument) for argument in arguments]))


def test_show_prints_an_aligned_table(capsys):
    assert call(contexts_verb, 'show', GOLDEN) == 0
    out = capsys.readouterr().out
    assert 'target            example/llama\n' in out
    assert 'decoder_prefix    [1]\n' in out
    assert out.splitlines()[-3:] == [
        'row  id   source tokens  k  ratio  bytes',
        '  0  a               24  3   8.00     48',
        '  1  b é             12  2   6.00     32',
    ]


def test_show_json(capsys):
    assert call(contexts_verb, 'show', GOLDEN, '--json') == 0
    assert json.loads(capsys.readouterr().out)['contexts'][1]['ratio'] == 6.0


def test_show_disarms_control_characters(tmp_path, capsys):
    raw = GOLDEN.read_bytes()
    (tmp_path / 'evil').write_bytes(raw.replace(b'b \\\\u00e9', b'\\\\u001b[J'))
    assert call(contexts_verb, 'show', tmp_path / 'evil') == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out
    assert r"'\x1b[J'" in out


def test_slice_then_merge_gives_the_file_back(tmp_path, capsys):
    one, two, back = tmp_path / 'one', tmp_path / 'two', tmp_path / 'back'
    assert call(contexts_verb, 'slice', GOLDEN, '--rows', '0', '--out', one) == 0
    assert call(contexts_verb, 'slice', GOLDEN, '--rows', '1:', '--out', two) == 0
    assert call(contexts_verb, 'merge', one, two, '--out', back) == 0
    captured = capsys.readouterr()
    assert captured.out == f'{one}\n{two}\n{back}\n'
    assert captured.err.splitlines()[-1] == '2 contexts written'
    assert back.read_bytes() == GOLDEN.read_bytes()


def test_an_existing_file_is_kept_unless_told(tmp_path):
    out = tmp_path / 'out'
    out.write_text('mine')
    with pytest.raises(ConfigError, match=r'exists.*--overwrite'):
        call(contexts_verb, 'slice', GOLDEN, '--rows', '0', '--out', out)
    assert out.read_text() == 'mine'
    assert call(contexts_verb, 'slice', GOLDEN, '--rows', '0', '--out', out, '--overwrite') == 0
    assert len(context_files.read(out)) == 1


def test_merge_names_the_file_that_does_not_fit(tmp_path):
    other = tmp_path / 'other'
    other.write_bytes(GOLDEN.read_bytes().replace(b'example/llama', b'another/llama'))
    with pytest.raises(PicJaxError, match=f"^{other}: target='another/llama' differs"):
        call(contexts_verb, 'merge', GOLDEN, other, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('text', 'rows'),
    [('0', [0]), ('0,2:5', [0, 2, 3, 4]), (':2', [0, 1]), ('4:', [4, 5]), (':', [0, 1, 2, 3, 4, 5]), ('5, 1', [5, 1])],
)
def test_rows(text, rows):
    assert contexts_verb.parse_rows(text, 6) == rows


@pytest.mark.parametrize('text', ['', ',', '6', '-1', '2:7', '3:3', '4:2', '1:2:3', 'a', '0;1', '1.0', '²', '9' * 5000])
def test_bad_rows(text):
    with pytest.raises(ConfigError, match='--rows='):
        contexts_verb.parse_rows(text, 6)


@pytest.mark.parametrize('arguments', [[], ['drop'], ['show'], ['slice', 'x', '--out', 'y'], ['merge', 'x']])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        call(contexts_verb, *arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize('verb', [contexts_verb, plot_verb])
def test_help_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        call(verb, '--help')
    assert caught.value.code == 0
    assert f'pic-jax {name(verb)} ' in capsys.readouterr().out


def run_config(**compressor) -> RunConfig:
    data = {'context_length': compressor.pop('data_length', 192)}
    return from_mapping(RunConfig, {'compressor': {'ratio': 8} | compressor, 'data': data})


@pytest.fixture
def workdir(tmp_path) -> Path:
    folder = tmp_path / 'runs' / 'pic'
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(to_mapping(run_config(chunk_size=16))))
    (folder / 'metrics.jsonl').write_text(
        ''.join(json.dumps({'step': step, 'split': 'train', 'lm_nats': 3 - step / 10}) + '\n' for step in range(5))
    )
    return folder


def test_plot_writes_both_pictures(workdir, capsys):
    assert call(plot_verb, workdir) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert paths == [workdir / 'plots' / 'loss.png', workdir / 'plots' / 'mask.png']
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in paths)


def test_plot_of_two_runs_of_one_name_goes_where_told(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / 'other' / 'pic')
    assert call(plot_verb, workdir, tmp_path / 'other' / 'pic', '--out', tmp_path / 'a' / 'b') == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / 'a' / 'b' / name) for name in ('loss.png', 'mask.png')]
    assert not (workdir / 'plots').exists()
    with pytest.raises(ConfigError, match='each folder once'):
        call(plot_verb, workdir, f'{workdir}/.')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('metrics.jsonl', '{"step": 1}\n', r'metrics\.jsonl:1: split=None'),
        ('config.json', '{', r'config\.json: not valid JSON'),
        ('config.json', '[]', r'config\.json: expected a JSON object'),
        ('config.json', '{"sede": 1}', r'config\.json: unknown config key sede: did you mean seed'),
    ],
)
def test_plot_names_a_broken_file_and_draws_nothing(workdir, name, content, message):
    (workdir / name).write_text(content)
    with pytest.raises(PicJaxError, match=message) as caught:
        call(plot_verb, workdir)
    assert not isinstance(caught.value, ConfigError)
    assert not (workdir / 'plots').exists()


@pytest.mark.parametrize(
    ('options', 'tokens'),
    [
        ({'chunk_size': 16}, 96),
        ({'chunk_size': 40}, 80),
        ({'chunk_size': 64}, 128),
        ({'chunk_size': 64, 'data_length': 100}, 100),
        ({'chunk_size': 16, 'window': 48}, 48),
        ({'method': 'icae'}, 96),
        ({'method': 'icae', 'data_length': 40}, 40),
    ],
)
def test_mask_tokens_are_whole_chunks(options, tokens):
    assert plots.mask_tokens(run_config(**options)) == tokens
