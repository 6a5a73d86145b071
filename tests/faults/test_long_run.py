"""Short segments of the long run: one that is resumed, and one that leaks."""

import os
from pathlib import Path

import long_run
import pytest

MINUTES, SETTLE = 0.75, 0.25

CONFIG = """
from long_training import get_config as long_config


def get_config():
    config = long_config()
    config.train.log_every, config.train.checkpoint_every, config.train.eval_every = 1, 5, 10
    return config
"""
LEAKS = """
from pic_jax.training.telemetry import Clock

kept, worked = [], Clock.worked


def leak(*arguments):
    kept.append(b'x' * 2**20)
    worked(*arguments)


Clock.worked = leak
"""


@pytest.fixture
def grown(tmp_path, monkeypatch):
    """A function from more lines of the configuration, and the row before, to the row of a segment of 45 seconds."""
    monkeypatch.setattr(long_run, 'EVERY_S', 1.0)
    monkeypatch.setenv('PYTHONPATH', str(Path(long_run.__file__).parent), prepend=os.pathsep)

    def run(lines='', before=None):
        config = tmp_path / 'config.py'
        config.write_text(CONFIG + lines)
        return long_run.segment(tmp_path / 'run', MINUTES, SETTLE, before, long_run.MALLOC, config)

    return run


@pytest.mark.slow
def test_a_segment_goes_on_where_the_last_one_stopped(grown):
    first = grown()
    second = grown(before=first)
    for before, row in ((None, first), (first, second)):
        assert row['exit_code'] == 75
        assert row['saves'] >= 1
        assert {*row['samples']} >= {
            't_s',
            'rss_mib',
            'heap_mib',
            'python_blocks',
            'handles',
            'threads',
            'step',
            'step_s',
        }
        # Too short to say that nothing grows; nothing else may be wrong.
        assert not [line for line in long_run.problems(row, before) if 'an hour' not in line]
    assert (first['saved_before'], first['resumed_from']) == (None, None)
    assert second['saved_before'] == second['resumed_from'] == first['last_step'] < second['last_step']


@pytest.mark.slow
def test_a_leak_is_flagged(grown):
    """1 MiB a step: the slope has to see at least a half of it, and be sure."""
    row = grown(LEAKS)
    steps, seconds = (row['samples'][name][-1] - row['samples'][name][0] for name in ('step', 't_s'))
    slopes = long_run.measured(row)['slopes']
    for name in ('rss_mib', 'heap_mib'):
        assert slopes[name]['rate'] > 0.5 * steps / seconds * 3600
        assert any(line.startswith(name) for line in long_run.problems(row, None))
        assert slopes[name]['low'] > 0
