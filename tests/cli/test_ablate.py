"""`pic-jax ablate` on a target of milliseconds."""

import csv
import dataclasses
import hashlib
import json
import re

import pytest

from pic_jax.cli.ablate import started
from pic_jax.cli.main import main
from pic_jax.config import RunConfig, to_mapping
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation import ablation, harness


def write_sweep(path, settings, rows):
    """A file with these dotted settings and overrides."""
    path.write_text(
        'from pic_jax.config import default_config\n\n\ndef get_config():\n    config = default_config()\n'
        f'    config.update_from_flattened_dict({settings!r})\n    return config\n\n\n'
        f'def get_sweep():\n    return {rows!r}\n'
    )
    return path


@pytest.fixture(scope='module')
def sweep_file(tmp_path_factory, tiny_settings):
    """Two ratios, two seeds, and a chunk size that the ratio does not divide."""
    rows = [{'compressor.ratio': ratio, 'seed': seed} for ratio in (2, 4) for seed in (0, 1)]
    rows.append({'compressor.ratio': 3, 'seed': 0})
    return write_sweep(tmp_path_factory.mktemp('sweep') / 'sweep.py', tiny_settings, rows)


@pytest.fixture(scope='module')
def swept(sweep_file, tmp_path_factory):
    """The workdir of a finished sweep. Not to be written to."""
    workdir = tmp_path_factory.mktemp('swept')
    assert main(['ablate', f'--config={sweep_file}', f'--workdir={workdir}']) == 1
    return workdir


@pytest.mark.parametrize('verb', ['ablate', 'demo'])
def test_the_folder_of_a_run_is_refused(sweep_file, tmp_path, capsys, verb):
    (tmp_path / 'config.json').write_text('{}')
    words = [f'--config={sweep_file}'] if verb == 'ablate' else []
    assert main([verb, *words, f'--workdir={tmp_path}']) == 2
    assert f'--workdir={tmp_path} is that of a run, or a model (config.json)' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_two_seeds_train_together(tiny_settings, tmp_path, monkeypatch):
    """The first stage of the sweeps that ship: no text is decoded, which is most of what compiles elsewhere."""
    words = {'objective.lm': 0.0, 'objective.words': 1.0, 'optimizer.learning_rate': 0.03}
    path = write_sweep(tmp_path / 'sweep.py', tiny_settings | words, [{'seed': 0}, {'seed': 1}])
    scored, score = [], harness.score

    def counted(run, trainable, records, methods, limit):
        scored.extend((run.config.seed, name) for name in methods)
        return score(run, trainable, records, methods, limit)

    monkeypatch.setattr(harness, 'score', counted)
    workdir = tmp_path / 'run'
    assert main(['ablate', f'--config={path}', f'--workdir={workdir}', '--save']) == 0
    rows = [json.loads((workdir / 'rows' / f'seed={seed}.json').read_text()) for seed in (0, 1)]
    for row in rows:
        assert (row['trained_together'], row['rows'], row['start_sha256']) == (2, [], None)
        assert [record['step'] for record in row['curve']] == [0, 2, 4]
        assert row['curve'][-1]['words_distance'] < row['curve'][0]['words_distance']
    assert rows[0]['curve'][0] != rows[1]['curve'][0]  # each has weights of its own
    files = [(workdir / 'rows' / f'seed={seed}' / 'compressor.safetensors').read_bytes() for seed in (0, 1)]
    assert files[0] != files[1]
    # The second one has what the first one's controls gave.
    assert sorted(name for seed, name in scored if seed == 1) == ['pic', 'shuffled_memory']
    assert len(scored) == 6 + 2


@pytest.mark.slow
def test_every_row_leaves_a_file_and_the_failed_one_a_line(swept, sweep_file, capsys):
    assert sorted(path.name for path in (swept / 'rows').glob('*.json')) == [
        'ratio=2,seed=0.json', 'ratio=2,seed=1.json', 'ratio=4,seed=0.json', 'ratio=4,seed=1.json',
    ]  # fmt: skip
    row = json.loads((swept / 'rows' / 'ratio=2,seed=1.json').read_text())
    assert row['overrides'] == {'compressor.ratio': 2, 'seed': 1}
    assert row['config']['compressor']['ratio'] == 2
    assert row['config']['seed'] == 1
    assert row['trained_together'] == 2
    assert [record['step'] for record in row['curve']] == [0, 2, 4]
    assert row['samples'] == {'answers': [], 'reconstructions': []}  # neither questions nor autoencoding
    assert {cell['method'] for cell in row['rows']} >= {'pic', 'no_context', 'full_context'}
    other = json.loads((swept / 'rows' / 'ratio=2,seed=0.json').read_text())
    kinds = [sorted((cell['method'], cell['metric']) for cell in which['rows']) for which in (row, other)]
    assert kinds[0] == kinds[1]
    values = [{(cell['method'], cell['metric']): cell['value'] for cell in which['rows']} for which in (row, other)]
    assert {key for key in values[0] if values[0][key] == values[1][key]} >= {('full_context', 'nats_per_token')}
    assert values[0]['pic', 'nats_per_token'] != values[1]['pic', 'nats_per_token']
    assert main(['ablate', f'--config={sweep_file}', f'--workdir={swept}']) == 1
    out = capsys.readouterr()
    assert 'failed: ratio=3,seed=0: compressor.chunk_size=8 is not valid: expected a multiple' in out.err
    assert len(out.out.splitlines()) == 3  # heading and two settings
    page = (swept / 'report.html').read_text('utf-8')
    assert '<span>✗ compressor.chunk_size=8 is not valid: expected a multiple' in page
    assert page.count('<summary>ratio=') == 4


@pytest.mark.slow
def test_rows_start_from_the_same_rows_of_another_sweep(tmp_path, tiny_settings, capsys):
    path = write_sweep(tmp_path / 'sweep.py', tiny_settings, [{'seed': 0}, {'seed': 1}])
    first, second = tmp_path / 'first', tmp_path / 'second'
    fast = '--config.optimizer.learning_rate=0.1'
    assert main(['ablate', f'--config={path}', f'--workdir={first}', '--examples=2', '--save', fast]) == 0
    assert main(['ablate', f'--config={path}', f'--workdir={second}', '--examples=2', f'--start_from={first}']) == 0
    assert not (second / 'rows' / 'seed=0').exists()
    capsys.readouterr()
    rows = [[json.loads((folder / 'rows' / f'seed={seed}.json').read_text()) for seed in (0, 1)]
            for folder in (first, second)]  # fmt: skip
    assert [row['trained_together'] for row in rows[1]] == [2, 2]
    for before, after in zip(*rows, strict=True):
        weights = first / 'rows' / before['name'] / 'compressor.safetensors'
        assert after['config']['start'] == str(weights.parent)
        assert before['start_sha256'] is None
        assert after['start_sha256'] == hashlib.sha256(weights.read_bytes()).hexdigest()
        ended, begun = before['curve'][-1]['loss'], after['curve'][0]['loss']
        assert begun == pytest.approx(ended, abs=2e-2)  # the file is bfloat16
        assert abs(before['curve'][0]['loss'] - begun) > 5e-2
    assert rows[1][0]['curve'][0]['loss'] != rows[1][1]['curve'][0]['loss']
    assert main(['ablate', f'--config={path}', f'--workdir={tmp_path / "third"}', f'--start_from={second}']) == 1
    assert 'has no weights of this row: expected a sweep run with --save' in capsys.readouterr().err


def test_a_row_starts_from_its_namesake_or_fails_alone(tmp_path):
    row = ablation.Row({'seed': 1}, RunConfig(seed=1))
    lost = started(row, tmp_path)
    assert (lost.config, lost.overrides) == (None, row.overrides)
    assert lost.error == f'{tmp_path} has no weights of this row: expected a sweep run with --save'
    (tmp_path / 'rows' / 'seed=1').mkdir(parents=True)
    (tmp_path / 'rows' / 'seed=1' / 'compressor.safetensors').touch()
    assert started(row, tmp_path).config == RunConfig(seed=1, start=str(tmp_path / 'rows' / 'seed=1'))
    with pytest.raises(ConfigError, match='seed=1 has start=elsewhere already'):
        started(ablation.Row({'seed': 1}, RunConfig(seed=1, start='elsewhere')), tmp_path)


@pytest.fixture
def begun(tmp_path):
    """A function from a folder and bytes to a row that starts from a file of those bytes in that folder."""

    def make(name, weights):
        (tmp_path / name).mkdir(exist_ok=True)
        if weights is not None:
            (tmp_path / name / 'compressor.safetensors').write_bytes(weights)
        return ablation.Row({'seed': 1}, RunConfig(seed=1, start=str(tmp_path / name)))

    return make


def store(folder, row, **more):
    """Leaves the row's file as if it had been trained."""
    ablation.row_path(folder, row).parent.mkdir(exist_ok=True)
    stored = {'config': to_mapping(row.config), 'split': 'test', 'examples': 3} | more
    stored |= {'overrides': row.overrides, 'rows': [], 'curve': [{'step': 1, 'loss': 2.0}]}
    ablation.row_path(folder, row).write_text(json.dumps(stored))


def test_a_row_is_known_by_the_weights_it_started_from(tmp_path, begun):
    row = begun('first', b'weights')
    store(tmp_path, row, start_sha256=hashlib.sha256(b'weights').hexdigest())
    assert ablation.is_stored(row, tmp_path, 'test', 3)
    assert ablation.is_stored(begun('moved', b'weights'), tmp_path, 'test', 3)
    for name in ('first', 'moved'):
        with pytest.raises(
            ConfigError, match=r'start=weights of sha256 [0-9a-f]{64}, this sweep has weights of sha256'
        ):
            ablation.is_stored(begun(name, b'others'), tmp_path, 'test', 3)
    fresh = ablation.Row({'seed': 1}, dataclasses.replace(row.config, start=''))
    with pytest.raises(ConfigError, match=r'was made with start=.*first, this sweep has :'):
        ablation.is_stored(fresh, tmp_path, 'test', 3)


@pytest.mark.parametrize(('more', 'weights'), [({}, b'weights'), ({'start_sha256': None}, None)])
def test_a_row_without_that_is_known_by_the_place(tmp_path, begun, more, weights):
    """Rows of before it was kept, and those that start from the checkpoint of a run."""
    row = begun('first', weights)
    store(tmp_path, row, **more)
    assert ablation.is_stored(row, tmp_path, 'test', 3)
    with pytest.raises(ConfigError, match=r'was made with start=.*first, this sweep has .*moved'):
        ablation.is_stored(begun('moved', weights), tmp_path, 'test', 3)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda row: row.clear(), "KeyError('config')"),
        (lambda row: row['config'].update(sead=0), 'unknown config key sead'),
        (lambda row: row.update(config=[]), 'AttributeError'),
        (lambda row: row.pop('split'), "KeyError('split')"),
        (lambda row: row.update(overrides=None), 'AttributeError'),
        (lambda row: row['curve'].clear(), 'IndexError'),
        (lambda row: row.update(rows=[{'value': 1}]), "KeyError('method')"),
        (lambda row: row['curve'][-1].update(loss='low'), 'TypeError'),
    ],
)
def test_a_damaged_row_is_named(tmp_path, change, said):
    row = ablation.Row({'seed': 1}, RunConfig(seed=1))
    store(tmp_path, row)
    path = ablation.row_path(tmp_path, row)
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    for found in (row, row._replace(config=None, error='refused')):  # a row that is not trained is read all the same
        with pytest.raises(PicJaxError, match=re.escape(f'{path} is not as docs/FORMATS.md says: ')) as refused:
            ablation.run_sweep([found], tmp_path, 'test', 3, print)
        assert said in str(refused.value)


def test_rows_that_score_nothing_show_their_last_loss():
    rows = [{'overrides': {'compressor.ratio': ratio, 'seed': seed}, 'config': {'seed': seed}, 'rows': [],
             'curve': [{'loss': 9.0}, {'loss': ratio + seed}]} for ratio in (2, 4) for seed in (0, 1)]  # fmt: skip
    assert ablation.setting_cells(rows) == [
        ['ratio', 'seeds', 'validation loss'], ['2', '2', '2.500 [2.000, 3.000]'], ['4', '2', '4.500 [4.000, 5.000]'],
    ]  # fmt: skip


@pytest.mark.slow
def test_a_finished_row_is_not_trained_again(swept, sweep_file, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError('trained again')

    monkeypatch.setattr(ablation, 'train_members', refuse)
    assert main(['ablate', f'--config={sweep_file}', f'--workdir={swept}', '--json']) == 1
    out = capsys.readouterr()
    assert 'trained again' not in out.err
    assert [row['name'] for row in json.loads(out.out)] == [
        'ratio=2,seed=0', 'ratio=2,seed=1', 'ratio=4,seed=0', 'ratio=4,seed=1',
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ('word', 'said'),
    [
        ('--config.train.steps=5', 'was made with train.steps=4, this sweep has 5'),
        ('--examples=3', 'was made with examples=1000, this sweep has 3'),
        ('--split=test', 'was made with split=validation, this sweep has test'),
        ('--config.seed=3', '--config.seed=3 is not valid: the sweep sets that key'),
    ],
)
def test_other_settings_are_refused(swept, sweep_file, capsys, word, said):
    assert main(['ablate', f'--config={sweep_file}', f'--workdir={swept}', word]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_what_fails_is_listed_and_the_rest_goes_on(sweep_file, tmp_path, monkeypatch, capsys):
    whole = ablation.train_members

    def sometimes(runs, note):
        if runs[0].config.compressor.ratio == 2:
            raise RuntimeError('out of memory')
        return whole(runs, note)

    monkeypatch.setattr(ablation, 'train_members', sometimes)
    assert main(['ablate', f'--config={sweep_file}', f'--workdir={tmp_path}']) == 1
    err = capsys.readouterr().err
    assert 'failed: ratio=2,seed=0: RuntimeError: out of memory' in err
    assert 'in sometimes' in (tmp_path / 'rows' / 'ratio=2,seed=0.error.txt').read_text()
    assert sorted(path.name for path in (tmp_path / 'rows').glob('*.json')) == [
        'ratio=4,seed=0.json', 'ratio=4,seed=1.json',
    ]  # fmt: skip


@pytest.mark.slow
def test_the_table_and_the_csv_hold_the_rows(swept):
    stored = [json.loads(path.read_text()) for path in sorted((swept / 'rows').glob('*.json'))]
    cells = [cell for row in stored[:2] for cell in row['rows']]
    shares = [cell['value'] for cell in cells if (cell['method'], cell['metric']) == ('pic', 'gap_share')]
    heading, first, _ = ablation.to_text(stored).splitlines()
    assert heading.split()[:2] == ['ratio', 'seeds']
    assert f'{sum(shares) / 2:.3f} [{min(shares):.3f}, {max(shares):.3f}]' in first
    lines = list(csv.DictReader((swept / 'sweep.csv').open()))
    assert len(lines) == sum(len(row['rows']) for row in stored)
    assert {line['compressor.ratio'] for line in lines} == {'2', '4'}
    key, drawn = ablation.series(stored, 'continuation', 'gap_share')
    assert key == 'compressor.ratio'
    assert [x for x, _ in drawn['gap_share']] == [2, 4]
    assert drawn['gap_share'][0][1] == shares
    assert drawn['gap_share'][1][1] != shares
    assert (swept / 'plots' / 'continuation_gap_share.png').stat().st_size > 5000


def test_two_rows_of_one_name_are_refused(tmp_path):
    with pytest.raises(ablation.ConfigError, match='two rows seed=0'):
        ablation.run_sweep([ablation.Row({'seed': 0}, None, 'x')] * 2, tmp_path, 'test', 1, print)


@pytest.mark.slow
def test_a_sweep_of_names_has_a_table_and_no_plot(sweep_file, tmp_path, capsys):
    """The row of the file's own method keeps what the file sets for it."""
    path = tmp_path / 'methods.py'
    text = sweep_file.read_text().partition('def get_sweep')[0]
    rows = "[{'compressor.method': name} for name in ('pic', 'mean_pool')]"
    path.write_text(f'{text}def get_sweep():\n    return {rows}\n')
    assert main(['ablate', f'--config={path}', f'--workdir={tmp_path / "run"}', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row['config']['compressor']['chunk_size'] for row in rows] == [8, None]
    assert ablation.series(rows, 'continuation', 'gap_share') == ('', {})
    assert [line.split()[0] for line in ablation.to_text(rows).splitlines()] == ['method', 'pic', 'mean_pool']


@pytest.mark.parametrize('sweep', ['[]', '3', '[3]', '1 / 0'])
def test_a_broken_sweep_is_bad_usage(sweep_file, tmp_path, capsys, sweep):
    path = tmp_path / 'broken.py'
    path.write_text(f'{sweep_file.read_text().partition("def get_sweep")[0]}def get_sweep():\n    return {sweep}\n')
    assert main(['ablate', f'--config={path}', f'--workdir={tmp_path / "run"}']) == 2
    assert f'--config={path}' in capsys.readouterr().err
