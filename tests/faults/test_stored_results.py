"""What the scripts of benchmarks/ store and show: nothing wrong as right, nothing under another commit."""

import json
import subprocess
import sys

import backends
import benchmarks_page
import jax.numpy as jnp
import jax_versions
import pages
import plan
import provenance
import pytest
import reliability_page

from pic_jax.files import read_json


def test_rows_keep_where_they_come_from():
    """Older files say it once for all rows."""
    older = {'commit': 'abc', 'machine': 'here', 'jax': '0.9', 'seed': 0, 'rows': [{'x': 1}, {'x': 2, 'commit': 'def'}]}
    assert [row['commit'] for row in provenance.rows_of(older)] == ['abc', 'def']
    assert provenance.rows_of({'rows': [{'x': 1, 'commit': 'abc'}]}) == [{'x': 1, 'commit': 'abc'}]


def test_a_result_that_differs_is_no_measurement():
    many = jnp.zeros(10_000)  # of so many, max() drops NaN on a CPU
    wanted = [jnp.array([1.0, -4.0]), many]
    assert backends.difference(wanted, wanted) == 0
    assert backends.difference(wanted, [jnp.array([1.0, -4.0001]), many]) == pytest.approx(2.5e-5, rel=1e-2)
    for wrong in ([jnp.array([1.0, -4.001]), many], [wanted[0], many + 1], [wanted[0], many.at[7].set(jnp.nan)]):
        with pytest.raises(SystemExit, match='results differ by'):
            backends.difference(wanted, wrong)


@pytest.mark.parametrize(
    ('name', 'code', 'fits', 'right'),
    [
        ('llama2_7b_v5e_16', 0, [True, True], True),
        ('llama2_7b_v5e_16', 0, [], False),
        ('llama2_7b_v5e_16', 1, [True, False], False),
        ('llama2_7b_v5e_16_too_large', 1, [False], True),
        ('llama2_7b_v5e_16_too_large', 1, [], False),  # a traceback
        ('llama2_7b_v5e_16_too_large', 1, [True], False),
    ],
)
def test_a_plan_has_to_end_as_it_must(tmp_path, monkeypatch, name, code, fits, right):
    printed = ''.join(json.dumps({'fits': each}) + '\n' for each in fits)
    monkeypatch.setattr(plan, 'RESULTS', tmp_path)
    monkeypatch.setattr(plan, 'provenance', lambda seed: {'commit': 'abc'})
    monkeypatch.setattr(
        plan.subprocess, 'run', lambda words, **_: subprocess.CompletedProcess(words, code, printed, 'Traceback')
    )
    if right:
        plan.compile_row(name)
        assert len(plan.stored()[name]['programs']) == len(fits)
    else:
        with pytest.raises(SystemExit, match=f'{name}: exit code {code} and {len(fits)} programs'):
            plan.compile_row(name)
        assert plan.stored() == {}


def test_a_table_without_rows_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, 'RESULTS', tmp_path)
    (tmp_path / 'renamed_since.json').write_text('{}')
    assert 'plan' not in [section.script for section in benchmarks_page.sections()]


def test_the_share_of_the_fastest_is_of_rounds_that_belong_together():
    """By the medians of both dense would be the faster one; round for round it takes a tenth longer but once."""
    seconds = {'dense': [1.1, 1.1, 2.2, 2.2, 1.1], 'structured': [1.0, 2.2, 2.0, 2.0, 1.0]}
    assert backends.share_of('dense', seconds) == pytest.approx(1 / 1.1)
    assert backends.share_of('structured', seconds) == 1


@pytest.fixture
def versions(tmp_path, monkeypatch):
    """A function from words of the command and what the tests come to, to the exit code and the rows."""
    monkeypatch.setattr(jax_versions, 'RESULTS', tmp_path / 'rows.json')
    monkeypatch.setattr(jax_versions, 'install', lambda folder, requirements: requirements)
    monkeypatch.setattr(jax_versions, 'versions', lambda python: {'jax': '0.9.9'})

    def run(words, **tested):
        row = {'passed': 3, 'skipped': 0, 'failed': 0, 'exit_code': 0} | tested
        monkeypatch.setattr(jax_versions, 'tested', lambda *_: row)
        monkeypatch.setattr(sys, 'argv', ['jax_versions.py', *words])
        return jax_versions.main(), read_json(jax_versions.RESULTS)['rows']

    return run


def test_a_trial_is_a_row_of_its_own(versions):
    assert [row['which'] for row in versions([])[1]] == ['oldest', 'newest']
    code, rows = versions(['--jax=0.9.9'])
    assert code == 0
    assert {row['which'] for row in rows} == {'oldest', 'newest', 'trial'}
    assert {row['jax'] for row in rows} == {'0.9.9'}  # as tested, not as here
    assert all(row['commit'] for row in rows)
    with pytest.raises(SystemExit):
        versions(['newest', '--jax=0.9.9'])


@pytest.mark.parametrize('tested', [{'passed': 0, 'skipped': 3}, {'failed': 1, 'exit_code': 1}])
def test_versions_without_a_test_that_passed_fail(versions, tested):
    assert versions(['oldest'], **tested)[0] == 1


def test_the_pages_can_be_made():
    """From what is stored."""
    assert reliability_page.page() == (pages.RESULTS.parents[1] / 'RELIABILITY.md').read_text()
    assert '## What is slower' in benchmarks_page.page()
    assert pages.stored('golden')['rows']['rows'][0].keys() >= set(provenance.FIELDS)
