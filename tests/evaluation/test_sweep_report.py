"""report.html of a sweep, read back as a tree."""

import base64

import pytest
from test_report import check_accessible, check_self_contained

from pic_jax.evaluation import sweep_report
from pic_jax.evaluation.tables import from_dicts, row_cells


@pytest.fixture(scope='module')
def page(shared_stored_rows, parse_page, hostile):
    failures = {'ratio=3,seed=0': f'compressor.ratio=3 {hostile[0]}'}
    return parse_page(sweep_report.sweep_page('chunks & "more"', shared_stored_rows, failures))


def test_the_page_is_whole_and_self_contained(page):
    check_self_contained(page)
    check_accessible(page)
    assert page.all('h1')[0].text == 'Sweep chunks & "more"'
    assert [heading.text for heading in page.all('h2')] == [
        'Failures', 'Results', 'Validation curves', 'Rows', 'Attention masks', 'Configuration', 'Environment',
    ]  # fmt: skip
    assert 'Parts of this page are missing' not in page.text


def test_failed_rows_are_listed(page, hostile):
    lines = page.section('failures').table('Rows without a result')
    assert lines[1:] == [['ratio=3,seed=0', f'✗ compressor.ratio=3 {hostile[1]}']]
    facts = dict(zip([node.text for node in page.all('dt')], [node.text for node in page.all('dd')], strict=True))
    assert (facts['Rows'], facts['Failed']) == ('4', '1')


def test_a_sweep_of_failures_alone_has_a_page(parse_page):
    page = parse_page(sweep_report.sweep_page('all', [], {'seed=0': 'out of memory'}))
    assert [heading.text for heading in page.all('h2')] == ['Failures']


def test_means_are_over_seeds(page):
    lines = page.section('results').table('Mean [lowest, highest] over seeds, of the swept method')
    assert lines == [
        ['ratio', 'seeds', 'qa em'],
        ['2', '2', '0.562 [0.500, 0.625]'],
        ['4', '2', '0.312 [0.250, 0.375]'],
    ]
    assert [node.attributes['alt'].partition(';')[0] for node in page.section('results').all('img')] == [
        'qa: em against compressor.ratio'
    ]


def test_every_cell_of_every_row_is_there(page, stored_rows):
    folds = [child for child in page.section('rows').children if getattr(child, 'tag', '') == 'details']
    assert [fold.all('summary')[0].text for fold in folds] == [row['name'] for row in stored_rows]
    for fold, row in zip(folds, stored_rows, strict=True):
        expected = [line[1:] for line in row_cells(from_dicts(row['rows']))]
        assert fold.table('qa: 12 examples') == expected
        assert fold.table('Validation: 3 of 3 records')[-1][1] == f'{row["curve"][-1]["loss"]:.4g}'
        assert '✓\xa0right' in fold.text


def test_rows_without_samples_are_shown(stored_rows, quick_pictures, parse_page):
    for row in stored_rows:
        del row['samples']
    page = parse_page(sweep_report.sweep_page('old', stored_rows, {}))
    assert 'Samples' not in page.section('rows').text
    assert not [heading for heading in page.all('h2') if heading.text == 'Failures']


def test_equal_layouts_have_one_picture(page):
    figures = page.section('attention-masks').all('figure')
    assert len(figures) == 2
    assert figures[0].text.endswith('In ratio=2,seed=0, ratio=2,seed=1.')
    drawn = {base64.b64decode(node.attributes['src'].partition(',')[2]) for node in page.all('img')}
    assert len(drawn) == 4  # two masks, the plot of the results, the curves


def test_settings_are_split_into_shared_and_differing(page):
    section = page.section('configuration')
    assert section.table('Settings that differ')[:2] == [
        ['row', 'seed', 'compressor.ratio'], ['ratio=2,seed=0', '0', '2'],
    ]  # fmt: skip
    shared = [line[0] for line in section.table('Resolved settings')]
    assert 'compressor.chunk_size' in shared
    assert 'compressor.ratio' not in shared


def test_rows_of_one_environment_share_a_column(page):
    heading, *lines = page.section('environment').table('Where the numbers were made')
    assert heading == ['', '2 rows, from ratio=2,seed=0', '2 rows, from ratio=4,seed=0']
    found = {line[0]: line[1:] for line in lines}
    assert found['jax'] == ['0.2', '0.4']
    assert found['seeds'] == ['0, 1'] * 2
    assert 'time' not in found


def test_equal_rows_give_equal_pages(stored_rows):
    assert sweep_report.sweep_page('a', stored_rows, {}) == sweep_report.sweep_page('a', stored_rows, {})


def test_labels_with_dollar_signs_are_drawn(stored_rows, parse_page):
    """matplotlib would read them as a formula, and refuse this one."""
    for row in stored_rows:
        row['overrides'] = {**row['overrides'], 'data.source': '$HOME/a_{$'}
    page = parse_page(sweep_report.sweep_page('paths', stored_rows, {}))
    assert 'Parts of this page are missing' not in page.text
    assert len(page.section('validation-curves').all('img')) == 1


def test_a_row_that_is_not_as_it_should_be_costs_its_part_of_the_page(stored_rows, quick_pictures, parse_page):
    del stored_rows[1]['environment']
    page = parse_page(sweep_report.sweep_page('old', stored_rows, {}))
    assert "a file in rows/ is not as docs/FORMATS.md says: KeyError('environment')" in page.section('environment').text
    assert 'Parts of this page are missing: Environment.' in page.text
    assert page.section('results').all('table')
