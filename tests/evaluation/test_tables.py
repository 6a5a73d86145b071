"""Result rows as JSON and as text."""

import json
import math

from pic_jax.evaluation.harness import Row
from pic_jax.evaluation.tables import to_dicts, to_text

ROWS = [
    Row('pic', 8.0, 24.0, 'continuation', 'nats_per_token', 2.5, 2.25, 2.75, 300),
    Row('no_context', math.inf, 0.0, 'continuation', 'nats_per_token', 3.5, 3.25, 3.75, 300),
    Row('pic', 8.0, 24.0, 'continuation', 'gap_share', 0.8004, 0.75, math.nan, 300),
    Row('pic', 7.5, 5.25, 'qa', 'f1', 0.5, 0.25, 0.75, 12),
]


def test_json_has_exactly_the_contracted_keys_and_no_number_that_json_lacks():
    text = json.dumps(to_dicts(ROWS))
    assert 'NaN' not in text
    assert 'Infinity' not in text
    found = json.loads(text)
    assert [list(row) for row in found] == [
        ['method', 'ratio', 'k', 'task', 'metric', 'value', 'low', 'high', 'n']
    ] * 4  # fmt: skip
    assert found[0] == vars(ROWS[0])
    assert found[1]['ratio'] is None
    assert found[2]['high'] is None


def test_text_is_a_table_per_task_with_a_line_per_method():
    assert to_text(ROWS).splitlines() == [
        'task          method      ratio  k   nats/token            share of gap',
        'continuation  pic         8.0x   24  2.500 [2.250, 2.750]  0.800 [0.750, nan]',
        'continuation  no_context  -      0   3.500 [3.250, 3.750]  -',
        '',
        'task  method  ratio  k    F1',
        'qa    pic     7.5x   5.2  0.500 [0.250, 0.750]',
    ]
