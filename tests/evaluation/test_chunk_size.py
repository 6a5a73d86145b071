"""The report about chunk sizes, from rows that nobody trained, and that the README shows what the stored rows say."""

import json
from pathlib import Path

import chunk_size as report
import numpy as np
import pytest

SIZES, RATIOS, SEEDS = (8, 16, 192), (2, 4), (0, 1, 2)


def quality(size: int, ratio: int, seed: int) -> float:
    """Best at 16 tokens for 2x and at 192 for 4x; seeds lie 0.125 apart."""
    return {(2, 16): 0.5, (4, 192): 0.75}.get((ratio, size), 0.25) + (seed - 1) / 8


def make_row(size: int, ratio: int, seed: int) -> dict:
    value = quality(size, ratio, seed)
    cells = [
        {'method': method, 'task': 'qa', 'metric': metric, 'value': number, 'n': 384}
        for method, exact in (('pic', value), ('full_context', 0.9375), ('no_context', 0.0625), ('shuffled_memory', 0))
        for metric, number in (('em', exact), ('f1', 0.001), ('nats_per_token', 3 - 2 * exact))
    ]
    for method in ('pic', 'full_context'):
        cells.append({'method': method, 'task': 'continuation', 'metric': 'nats_per_token', 'value': 9.0, 'n': 48})
    return {
        'name': f'chunk_size={size},ratio={ratio},seed={seed}', 'split': 'validation',
        'overrides': {'compressor.chunk_size': size, 'compressor.ratio': ratio, 'seed': seed},
        'config': {'seed': seed, 'compressor': {'method': 'pic'}, 'data': {'context_length': 192}},
        'environment': {'machine': 'paper', 'cores': 2, 'device': 'cpu', 'commit': f'c{seed}'}, 'rows': cells,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the report writes: a README with marks, and rows of a whole sweep in files."""
    monkeypatch.setattr(report, 'ROOT', tmp_path)
    monkeypatch.setattr(report, 'ROWS', tmp_path / 'rows' / 'answers')
    report.ROWS.mkdir(parents=True)
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'README.md').write_text('before\n<!-- chunk size: begin -->\nold\n<!-- chunk size: end -->\nafter\n')
    return tmp_path


@pytest.fixture
def stored(folder):
    for size in SIZES:
        for ratio in RATIOS:
            for seed in SEEDS:
                row = make_row(size, ratio, seed)
                (report.ROWS / f'{row["name"]}.json').write_text(json.dumps(row))
    return report.stored_rows()


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in markdown.splitlines() if line[0] == '|']


def test_the_table_has_a_line_per_size_and_a_column_per_ratio(stored):
    low, middle, high = '25.0% [12.5%, 37.5%]', '50.0% [37.5%, 62.5%]', '75.0% [62.5%, 87.5%]'
    assert cells(report.metric_table(stored, 'em')) == [
        ['exact match, chunk size', '2x', '4x'], ['---'] * 3,
        ['8', low, low], ['16', middle, low], ['192 (one chunk)', low, high],
        ['full_context', '93.8%', '93.8%'], ['no_context', '6.2%', '6.2%'],
    ]  # fmt: skip
    nats = cells(report.metric_table(stored, 'nats_per_token'))
    assert nats[3] == ['16', '2.000 [1.750, 2.250]', '2.500 [2.250, 2.750]']
    assert nats[-2:] == [['full_context', '1.125', '1.125'], ['no_context', '2.875', '2.875']]
    assert report.best_line(stored) == 'Highest mean exact match: 16 at 2x, 192 at 4x.'


def test_the_page_says_where_the_numbers_come_from(stored):
    text = report.page(stored)
    assert '18 rows; means over 3 seeds' in text
    assert '; 384 questions of the validation split.' in text
    assert 'machine: paper, 2 cores, cpu; commits: c0, c1, c2.' in text
    for metric in report.METRICS:
        assert report.metric_table(stored, metric) in text


def test_a_sweep_that_is_not_finished_has_gaps(stored):
    some = [row for row in stored if row['overrides'] != {'compressor.chunk_size': 8, 'compressor.ratio': 4, 'seed': 0}]
    some = [row for row in some if (row['overrides']['compressor.chunk_size'], row['overrides']['compressor.ratio'])
            != (16, 4)]  # fmt: skip
    assert [line[2] for line in cells(report.metric_table(some, 'em'))[2:5]] == [
        '31.2% [25.0%, 37.5%]', '-', '75.0% [62.5%, 87.5%]',
    ]  # fmt: skip
    assert 'means over 2 to 3 seeds' in report.counts_line(some)
    one = [row for row in stored if row['overrides']['compressor.chunk_size'] == 16]  # where nothing but ratios differ
    assert cells(report.metric_table(one, 'em'))[2] == ['16', '50.0% [37.5%, 62.5%]', '25.0% [12.5%, 37.5%]']


def test_the_picture_has_a_line_per_ratio_and_the_ends(stored):
    exact, nats = report.picture(stored).axes
    for axes, scale in ((exact, lambda y: y), (nats, lambda y: 3 - 2 * y)):
        drawn = {line.get_label(): line for line in axes.lines}
        for ratio in RATIOS:
            assert drawn[f'{ratio}x'].get_xdata().tolist() == list(SIZES)
            means = [scale(quality(size, ratio, 1)) for size in SIZES]
            np.testing.assert_allclose(drawn[f'{ratio}x'].get_ydata(), means)
        ends = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == '--']
        assert ends == [scale(0.9375), scale(0.0625)]
        assert len(axes.collections) == len(RATIOS)  # the bands


def test_page_picture_and_readme_are_written(folder, stored, capsys):
    report.main()
    assert (folder / 'docs' / 'chunk_size.md').read_text() == report.page(stored)
    assert (folder / 'docs' / 'chunk_size.png').read_bytes().startswith(b'\x89PNG')
    text = (folder / 'README.md').read_text()
    assert report.metric_table(stored, 'em') in text
    assert 'docs/chunk_size.png' in text
    assert 'old' not in text
    assert '18 rows' in capsys.readouterr().out


def test_without_rows_it_says_so_and_draws_nothing(folder, capsys):
    report.main()
    for name in ('README.md', 'docs/chunk_size.md'):
        assert 'No rows yet' in (folder / name).read_text()
    assert not (folder / 'docs' / 'chunk_size.png').exists()
    assert 'rows/answers: no rows' in capsys.readouterr().out


def test_the_readme_shows_the_stored_rows():
    root = Path(__file__).parents[2]
    assert report.block(report.stored_rows()) in (root / 'README.md').read_text()
    assert (root / 'docs' / 'chunk_size.md').read_text() == report.page(report.stored_rows())
