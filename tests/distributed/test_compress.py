"""Compressing parts of one context on several devices: who has to talk to whom, read from the compiled program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compress_worker import farthest

pytestmark = pytest.mark.slow

LOCAL = {
    'pic': {'chunk_size': 8},
    'icae': {'window': 8},
    'epl': {'window': 16},
    'kv500x': {'chunk_size': 8, 'context_sees': 'chunk'},
    'mean_pool': {'chunk_size': 8, 'context_sees': 'chunk'},
    'icformer': {'chunk_size': 8},
}
RECURRENT = {'chunk_size': 8, 'context_sees': 'chunk+memory', 'memory_sees_memory': 'previous'}


def compiled(method, options, mesh, rows):
    """What compress_worker.py prints."""
    root = Path(__file__).parents[2]
    spec = json.dumps({'method': method, 'options': options, 'mesh': mesh, 'rows': rows})
    environ = dict(os.environ, JAX_PLATFORMS='cpu', PYTHONPATH=os.pathsep.join([str(root), str(root / 'tests')]))
    environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
    command = [sys.executable, str(Path(__file__).with_name('compress_worker.py')), spec]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_memory_that_is_no_number_shows():
    memory = {'k': np.zeros((2, 3)), 'v': np.zeros((2, 3))}
    assert farthest(memory, memory | {'v': np.ones((2, 3))}) == 1
    assert np.isnan(farthest(memory, memory | {'v': np.full((2, 3), np.nan)}))


@pytest.mark.parametrize('rows', [2, 4])
@pytest.mark.parametrize('method', LOCAL)
def test_independent_parts_do_not_talk_across_context(method, rows):
    """With 2 rows, each context is split over two devices; with 4, every device has a row of its own."""
    found = compiled(method, LOCAL[method], [1, 2, 2, 2], rows)
    assert found['crossing']['context'] == []
    assert found['crossing']['fsdp']  # weights are gathered, so the reading is not empty
    assert found['far'] < 1e-5


def test_a_recurrent_layout_would():
    found = compiled('pic', RECURRENT, [1, 2, 2, 2], 2)
    assert found['crossing']['context']
    assert found['far'] < 1e-5
