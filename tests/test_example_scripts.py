"""The scripts that a user copies run as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / 'examples'


@pytest.mark.slow
def test_ablate_chunk_size_prints_a_line_per_size():
    script = EXAMPLES / 'ablate_chunk_size.py'
    assert len(script.read_text().splitlines()) <= 40
    done = subprocess.run([sys.executable, script, '2'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sizes = re.findall(r'^chunk size (\d+): (\d+\.\d+) \+- \d+\.\d+ nats per token$', done.stdout, re.M)
    assert [int(size) for size, _ in sizes] == [8, 16, 32, 64]
    assert len({value for _, value in sizes}) == 4  # the sizes are really different programs
