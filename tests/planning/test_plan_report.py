"""What a plan says, and its rows."""

import json

import pytest

from pic_jax.planning.collectives import Collective
from pic_jax.planning.measure import Measured, Memory, refused
from pic_jax.planning.programs import Program
from pic_jax.planning.report import GIB, to_dict, to_text, verdict
from pic_jax.planning.roofline import Roofline

PROGRAM = Program('train', None, (), tokens=4096)
FITS = Measured(
    PROGRAM, 16, 16 * GIB, 12 * GIB, 3e12, 61.0, Memory(5 * GIB, 4 * GIB, 7 * GIB, 12 * GIB),
    [Collective('all-gather', GIB // 4, 64, ((0, 1),)), Collective('all-reduce', 8, None, ((0, 1),))],
    100 * GIB, Roofline(0.015, 0.25, None),
)  # fmt: skip
TOO_LARGE = Measured(PROGRAM, 16, 16 * GIB, 40 * GIB, 3e12, 30.0)
UNKNOWN = TOO_LARGE._replace(needed=None)


def test_the_verdict_says_by_how_much():
    assert verdict(FITS) == 'fits: 12.00 of 16.00 GiB on each device, 4.00 GiB free'
    assert verdict(TOO_LARGE) == 'does not fit: needs 40.00 GiB on each device, 24.00 GiB more than its 16.00 GiB'
    assert verdict(UNKNOWN) == 'does not fit: needs more than the 16.00 GiB of each device'
    assert not FITS._replace(needed=17 * GIB).fits


@pytest.mark.parametrize(
    ('message', 'sizes'),
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.50G) '
            'exceeds available HBM (15.75G).',
            (int(33.5 * GIB), int(15.75 * GIB)),
        ),
        ('RESOURCE_EXHAUSTED: something else', (None, None)),
    ],
)
def test_the_compilers_refusal_is_read(message, sizes):
    assert refused(message) == sizes


def test_the_table_has_a_line_per_program_and_labels_the_estimate():
    text = to_text([FITS, TOO_LARGE], {'topology': 'v5e:4x4'})
    assert text.startswith('topology=v5e:4x4\n')
    rows = [line.split() for line in text.splitlines() if line.startswith('train ')]
    assert ['train', '5.00', '7.00', '4.00', '12.00', '16.00', 'yes', '61'] in rows
    assert ['train', '-', '-', '-', '40.00', '16.00', 'NO', '30'] in rows
    assert ['train', 'all-gather', '64', '16.00'] in rows
    assert 'and 1 of unknown count' in text
    assert ['train', '3', '15', '250', '?', '250', '16,384'] in rows
    assert 'estimate: ' in text


def test_rows_survive_json():
    row = json.loads(json.dumps(to_dict(FITS)))
    assert (row['fits'], row['peak_bytes'], row['flops']) == (True, 12 * GIB, 3e12)
    assert row['collectives']['all-gather'] == {'count': 64, 'bytes': 16 * GIB, 'of_unknown_count': 0}
    assert row['estimate']['tokens_per_s'] == 4096 / 0.25
    assert row['estimate']['bound'] == 'hbm'
    assert 'estimate' not in to_dict(TOO_LARGE)
    assert to_dict(TOO_LARGE)['fits'] is False
