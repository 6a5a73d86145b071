"""The recipe of the shipped model gives what it gave when it was run for the weights in the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STORED = ROOT / 'benchmarks' / 'results' / 'tiny_base' / 'losses.json'


def losses(out: Path) -> list[float]:
    """The first losses, in a process of its own: tests compile without optimisations, trainings do not."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(('JAX_', 'XLA_'))}
    script = [sys.executable, ROOT / 'benchmarks' / 'tiny_base.py', 'losses', '--out', out]
    subprocess.run(script, env=env | {'JAX_PLATFORMS': 'cpu'}, cwd=ROOT, check=True, capture_output=True)
    return json.loads(out.read_text())['loss']


@pytest.mark.slow
def test_the_first_steps_of_the_recipe_give_the_stored_losses_and_the_same_bits_twice(tmp_path):
    stored = json.loads(STORED.read_text())['loss']
    first, second = losses(tmp_path / 'first.json'), losses(tmp_path / 'second.json')
    assert len(first) == len(stored) == 20
    assert first == second
    assert first == pytest.approx(stored, abs=1e-3)
    assert stored[-1] < 0.7 * stored[0]
