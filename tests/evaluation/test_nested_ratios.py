"""The table of benchmarks/nested_ratios.py from rows written out by hand."""

import json

import nested_ratios as nested
import pytest


def row(arm, seed, **nats):
    cell = {'method': 'pic', 'task': 'qa', 'metric': 'nats_per_token'}
    return {'arm': arm, 'seed': seed, 'rows': {ratio: [cell | {'value': value}] for ratio, value in nats.items()}}


def test_the_difference_is_paired_over_the_seeds_that_both_have():
    rows = [
        row('nested', 0, **{'4': 1.0, '8': 1.5}),
        row('nested', 1, **{'4': 1.4, '8': 1.7}),
        row('only_4x', 0, **{'4': 0.9}),
        row('only_4x', 1, **{'4': 1.2}),
        row('only_8x', 1, **{'8': 2.0}),
    ]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in nested.table(rows).splitlines()]
    assert lines[0][:4] == ['ratio', 'nats/token, dedicated', 'nats/token, nested', 'nats/token, difference']
    assert lines[2][:4] == ['4x', '1.050 [0.900, 1.200]', '1.200 [1.000, 1.400]', '+0.150 [+0.100, +0.200]']
    assert lines[3][:4] == ['8x', '2.000 [2.000, 2.000]', '1.600 [1.500, 1.700]', '-0.300 [-0.300, -0.300]']
    assert lines[4] == ['16x', *['-'] * 6]


def test_a_row_of_other_settings_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(nested, 'RESULTS', tmp_path)
    assert not nested.is_done('nested', 0)
    stored = {'steps': nested.STEPS, 'options': nested.ARMS['nested']}
    nested.row_path('nested', 0).write_text(json.dumps(stored))
    assert nested.is_done('nested', 0)
    nested.row_path('nested', 0).write_text(json.dumps(stored | {'steps': 1}))
    with pytest.raises(SystemExit, match='steps=1, this run 60'):
        nested.is_done('nested', 0)
