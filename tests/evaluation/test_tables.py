"""Result rows as JSON and as text."""

import json
import math

from pic_jax.evaluation.costs import Cost
from pic_jax.evaluation.harness import Row
from pic_jax.evaluation.tables import to_csv, to_dicts, to_text

ROWS = [
    Row('pic', 8.0, 24.0, 'continuation', 'nats_per_token', 2.5, 2.25, 2.75, 300),
    Row('no_context', math.inf, 0.0, 'continuation', 'nats_per_token', 3.5, 3.25, 3.75, 300),
    Row('pic', 8.0, 24.0, 'continuation', 'gap_share', 0.8004, 0.75, math.nan, 300),
    Row('no_context', math.inf, 0.0, 'continuation', 'gap_share', math.nan, math.nan, math.nan, 300),
    Row('pic', 7.5, 5.25, 'qa', 'f1', 0.5, 0.25, 0.75, 12),
]


def test_json_has_exactly_the_contracted_keys_and_no_number_that_json_lacks():
    text = json.dumps(to_dicts(ROWS))
    assert 'NaN' not in text
    assert 'Infinity' not in text
    found = json.loads(text)
    assert [list(row) for row in found] == [
        ['method', 'ratio', 'k', 'task', 'metric', 'value', 'low', 'high', 'n']
    ] * 5  # fmt: skip
    assert found[0] == vars(ROWS[0])
    assert found[1]['ratio'] is None
    assert found[2]['high'] is None


def test_text_is_a_table_per_task_with_a_line_per_method():
    assert to_text(ROWS).splitlines() == [
        'task          method      ratio  k   nats/token            share of gap',
        'continuation  pic         8.0x   24  2.500 [2.250, 2.750]  0.800',
        'continuation  no_context  -      0   3.500 [3.250, 3.750]  -',
        '',
        'task  method  ratio  k    F1',
        'qa    pic     7.5x   5.2  0.500 [0.250, 0.750]',
    ]


def test_one_method_at_two_ratios_has_two_lines_and_its_own_costs():
    fine = Row('pic', 4, 25.0, 'qa', 'em', 0.5, 0.0, 1.0, 9)
    coarse = Row('pic', 8, 12.5, 'qa', 'em', 0.25, 0.0, 1.0, 9)
    assert to_text([fine, coarse]).splitlines() == [
        'task  method  ratio  k     exact match',
        'qa    pic     4.0x   25    0.500 [0.000, 1.000]',
        'qa    pic     8.0x   12.5  0.250 [0.000, 1.000]',
    ]
    heading, *lines = to_csv([[fine], [coarse]], [{'pic': Cost(1, 2, 3)}, {'pic': Cost(4, 5, 6)}]).splitlines()
    assert heading.endswith('n,compression_flops,stored_bytes,first_token_s')
    assert lines == ['pic,4,25.0,qa,em,0.5,0.0,1.0,9,1,2,3', 'pic,8,12.5,qa,em,0.25,0.0,1.0,9,4,5,6']
