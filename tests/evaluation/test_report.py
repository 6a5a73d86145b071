"""report.html of a run, read back as a tree: what must be on it, and what must not."""

import base64
import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from pic_jax.config import CompressorConfig
from pic_jax.errors import PicJaxError
from pic_jax.evaluation import plots, report
from pic_jax.evaluation.markup import Html, element, escaped, table
from pic_jax.evaluation.sample_views import differences
from pic_jax.training.workdir import read_config, write_config

STYLE = Path(report.__file__).with_name('report.css')


@pytest.fixture(scope='module')
def page(shared_report_workdir, parse_page):
    return parse_page(report.write_report(shared_report_workdir).read_text('utf-8'))


def check_self_contained(page) -> None:
    """Nothing on the page runs, is loaded from elsewhere or sends anything."""
    nodes = page.all()
    assert len(nodes) > 50
    assert not {node.tag for node in nodes} & {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form', 'svg'}
    anchors = {node.attributes['id'] for node in nodes if 'id' in node.attributes}
    for node in nodes:
        for name, value in node.attributes.items():
            assert not name.startswith('on'), name
            assert name not in ('style', 'srcset', 'action', 'poster', 'data')
            if name in ('src', 'href'):
                assert value.startswith('data:image/png;base64,') or value.removeprefix('#') in anchors, value
    for style in page.all('style'):
        assert not re.search(r'url|@import|<', style.text)
    policy = [node.attributes['content'] for node in page.all('meta') if 'http-equiv' in node.attributes]
    assert policy[0].startswith("default-src 'none'; img-src data:;")


def check_accessible(page) -> None:
    """Pictures have a text, tables a caption and heads, headings no gaps, and regions that scroll a name."""
    assert page.attributes['lang'] == 'en'
    for picture in page.all('img'):
        assert len(picture.attributes['alt']) > 20
        assert int(picture.attributes['width']) > 300
    for found in page.all('table'):
        assert found.all('caption')[0].text
        first, *lines = found.all('tr')
        assert {cell.tag for cell in first.children} == {'th'}
        assert {cell.attributes['scope'] for cell in first.all('th')} == {'col'}
        for line in lines:
            assert line.all('th')[0].attributes['scope'] == 'row'
            assert len(line.all('th', 'td')) == len(first.all('th'))
    levels = [int(node.tag[1]) for node in page.all('h1', 'h2', 'h3', 'h4')]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_is_whole_and_self_contained(page):
    check_self_contained(page)
    check_accessible(page)
    assert [heading.text for heading in page.all('h2')] == [
        'Results', 'Samples', 'Training curves', 'Attention mask', 'Configuration', 'Environment',
    ]  # fmt: skip
    assert not [node for node in page.all('p') if node.attributes.get('class') == 'missing']


def test_hostile_text_is_shown_as_text(page, hostile):
    _, shown = hostile
    assert page.all('title')[0].text == 'Run run <b> - pic_jax'
    assert {node.text for node in page.all('b')} == {'0.500', '0.250', '0.125', '0.750', '0.375'}
    results, samples = page.section('results'), page.section('samples')
    assert shown in [line[0] for line in results.table('qa: 12 examples')]
    assert shown in [line[0] for line in results.table('What one context costs under each method')]
    assert {f'BLEU: {shown}', 'ROUGE: rouge-score'} <= {node.text for node in results.all('p')}
    assert samples.all('h4')[0].text == f'Q1: Where? {shown}'
    assert f'Expected: Mill or {shown}' in [node.text for node in samples.all('p')]
    assert f'At the mill. {shown}' in [node.text for node in samples.all('p')]
    assert [line[1] for line in page.section('environment').cells() if line[0] == 'machine'] == [shown]
    for node in page.all():
        for value in node.attributes.values():
            assert '\x00' not in (value or '')


def test_escaping_leaves_markup_alone_and_nothing_else(hostile):
    text, shown = hostile
    assert escaped(Html('<b>')) == '<b>'
    assert escaped('<b>') == '&lt;b&gt;'
    made = element('p', text, element('i', 'x'), 3, title=text, hidden=True, class_=None)
    assert made.count('<') == 4
    assert '"' not in made.partition('title="')[2].partition('" hidden>')[0]
    assert made.encode('utf-8')
    assert shown.count('\ufffd') == 2
    assert '<script' not in table(text, [[text], [text]])


def test_every_row_of_the_results_is_in_a_table(page, shared_report_workdir, hostile):
    text, shown = hostile
    rows = json.loads((shared_report_workdir / 'results.json').read_text())['rows']
    headings = {'em': 'exact match', 'gap_share': 'share of gap', 'bleu4': 'BLEU-4', 'new_metric': 'new_metric'}
    for row in rows:
        heading, *lines = page.section('results').table(f'{row["task"]}: 12 examples')
        (line,) = [line for line in lines if line[0] == row['method'].replace(text, shown)]
        cells = dict(zip(heading, line, strict=True))
        shown_value = '-' if row['value'] is None else '{value:.3f} [{low:.3f}, {high:.3f}]'.format(**row)
        assert cells[headings[row['metric']]] == shown_value
        assert cells['ratio'] == ('-' if row['ratio'] is None else f'{row["ratio"]:.1f}x')
    costs = page.section('results').table('What one context costs under each method')
    assert costs[1] == ['pic', '2.5', '768', '12.50']


def test_answers_are_marked_with_a_word_a_sign_and_a_class(page, hostile):
    samples = page.section('samples')
    assert samples.table('Answers to question 1')[1:] == [
        ['pic', '✓\xa0right', 'the Mill'], ['icae', '≈\xa0partly, F1 0.67', 'mill town'],
        ['no_context', '✗\xa0wrong', hostile[1]], ['full_context', '✗\xa0wrong', 'nothing'],
    ]  # fmt: skip
    assert samples.table('Marks of 1 sample questions')[1:] == [
        ['pic', '✓ right'], ['icae', '≈ partly'], ['no_context', '✗ wrong'], ['full_context', '✗ wrong'],
    ]  # fmt: skip
    for mark in samples.all('span'):
        if 'mark' in mark.attributes.get('class', ''):
            assert mark.attributes['class'].split()[1] == mark.text.split()[1].rstrip(',')


def test_reconstructions_mark_what_is_missing_and_what_is_new(page, hostile):
    right, partly, empty = page.section('samples').all('article')[1:]
    assert '✓\xa0right 3 of 3 words kept, 100% of the tokens' in right.text
    assert not right.all('del', 'ins')
    assert '≈\xa0partly 2 of 4 words kept, 25% of the tokens' in partly.text
    assert [(node.tag, node.text) for node in partly.all('del', 'ins')] == [('del', 'b'), ('ins', 'x'), ('del', 'd')]
    assert '✗\xa0wrong 0 of' in empty.text
    assert empty.all('del')[0].text == ' '.join(hostile[0].split()).replace('\x00', '\ufffd').replace(
        '\ud800', '\ufffd'
    )


def test_differences():
    marked, kept = differences(['a', 'b', 'c', 'd'], ['a', 'x', 'c'])
    assert (marked, kept) == ('a <del>b</del> <ins>x</ins> c <del>d</del>', 2)
    assert differences([], ['<']) == ('<ins>&lt;</ins>', 0)


def test_pictures_are_those_of_the_run(page, shared_report_workdir, tmp_path):
    config = read_config(shared_report_workdir)
    plots.draw_mask(tmp_path / 'mask.png', config)
    records = plots.read_metrics(shared_report_workdir / 'metrics.jsonl')
    plots.plot_curves(tmp_path / 'loss.png', {'pic': records}, ('ae_nats', 'ft_nats'))
    inside = [base64.b64decode(node.attributes['src'].partition(',')[2]) for node in page.all('img')]
    assert inside == [(tmp_path / name).read_bytes() for name in ('loss.png', 'mask.png')]
    table = page.section('training-curves').table('Validation: 3 of 3 records')
    assert table[0] == ['step', 'loss', 'ft_nats']
    assert table[3] == ['10', '1', '2.5']


def test_many_validations_are_thinned_out_to_both_ends(parse_page):
    records = [{'step': step, 'loss': 0.5} for step in range(100)]
    (part,) = report.validation_table(records)
    lines = parse_page(f'<html>{part}</html>').table('Validation: 30 of 100 records')[1:]
    steps = [int(line[0]) for line in lines]
    assert len(set(steps)) == 30
    assert (steps[0], steps[-1]) == (0, 99)


def test_settings_and_environment(page):
    settings = dict(page.section('configuration').table('Resolved settings')[1:])
    assert settings['compressor.ratio'] == '4'
    assert settings['compressor.context_sees'] == '"chunk"'
    lines = {line[0]: line[1:] for line in page.section('environment').table('Where the numbers were made')}
    assert lines[''] == ['pic-jax train', 'pic-jax eval']
    assert lines['commit'] == ['not known'] * 2
    assert lines['seed'] == ['0'] * 2


def test_equal_files_give_equal_pages(report_workdir, tmp_path):
    first = report.write_report(report_workdir).read_bytes()
    other = shutil.copytree(report_workdir, tmp_path / 'other' / report_workdir.name)
    assert report.write_report(Path(other)).read_bytes() == first


def test_a_workdir_that_has_only_settings_says_what_is_missing(report_workdir, quick_pictures, parse_page):
    for name in ('results.json', 'samples.json', 'environment.json', 'metrics.jsonl'):
        (report_workdir / name).unlink()
    page = parse_page(report.write_report(report_workdir).read_text('utf-8'))
    check_self_contained(page)
    assert 'Parts of this page are missing: Results, Samples, Training curves, Environment.' in page.text
    for anchor, name in (('results', 'results.json'), ('samples', 'samples.json'), ('environment', 'environment.json')):
        said = page.section(anchor).all('p')[0].text
        assert said == f"{name} is not there yet. It is made by pic-jax eval --workdir='{report_workdir}'"
    said = page.section('training-curves').all('p')[0].text
    assert (
        said
        == f"metrics.jsonl is not there yet. It is made by pic-jax train --config=FILE --workdir='{report_workdir}'"
    )
    assert len(page.section('attention-mask').all('img')) == 1
    assert page.section('configuration').all('table')


@pytest.mark.parametrize(
    ('name', 'content', 'anchor', 'message'),
    [
        ('results.json', '{"rows": [', 'results', 'results.json: not valid JSON'),
        ('results.json', '{"rows": [{"method": "pic"}]}', 'results', 'does not have the keys method, ratio, k'),
        (
            'results.json',
            '{"rows": [], "costs": {"pic": {}}}',
            'results',
            'results.json is not as docs/FORMATS.md says',
        ),
        ('samples.json', '{"answers": [3], "reconstructions": []}', 'samples', 'samples.json is not as'),
        ('samples.json', '[]', 'samples', 'samples.json: expected a JSON object'),
        ('metrics.jsonl', '{"step": 1}\n', 'training-curves', 'split=None is not valid'),
        ('environment.json', '{"train": 3}', 'environment', 'environment.json is not as'),
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_shown(
    report_workdir, quick_pictures, parse_page, name, content, anchor, message
):
    (report_workdir / name).write_text(content)
    page = parse_page(report.write_report(report_workdir).read_text('utf-8'))
    assert message in page.section(anchor).text
    intact = {'results', 'samples', 'training-curves', 'environment', 'configuration'} - {anchor}
    for other in intact:
        assert page.section(other).all('table')


def test_a_folder_without_settings_is_refused(tmp_path):
    with pytest.raises(PicJaxError, match='is not a workdir'):
        report.write_report(tmp_path)


def test_results_of_an_earlier_step_are_called_old(report_workdir, quick_pictures, parse_page):
    results = json.loads((report_workdir / 'results.json').read_text()) | {'step': 5}
    (report_workdir / 'results.json').write_text(json.dumps(results))
    page = parse_page(report.write_report(report_workdir).read_text('utf-8'))
    assert 'Scored at step 5; the run has been trained to step 10 since.' in page.section('results').text


def test_constant_memory_has_no_mask(report_workdir, quick_pictures, parse_page):
    constant = CompressorConfig.preset('constant_memory', ratio=4, context_length=24)
    write_config(report_workdir, dataclasses.replace(read_config(report_workdir), compressor=constant))
    section = parse_page(report.write_report(report_workdir).read_text('utf-8')).section('attention-mask')
    assert section.all('p')[0].text == 'constant_memory reads no context, so it has no mask.'
    assert not section.all('img')


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize('dark', [False, True])
def test_contrast_is_that_of_wcag_aa(dark):
    light_style, dark_style = STYLE.read_text().split('prefers-color-scheme: dark')
    colours = dict(re.findall(r'--([\w-]+): (#\w{6});', dark_style if dark else light_style))
    pairs = [(text, back) for text in ('text', 'muted', 'link') for back in ('page', 'panel')]
    pairs += [(kind, f'{kind}-back') for kind in ('right', 'partly', 'wrong')]
    for text, back in pairs:
        bright, dim = sorted((luminance(colours[text]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, back)
