"""A trained compressor is read with the target split over devices."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_eval_on_a_mesh_finds_what_one_device_finds(trained_workdir, tmp_path):
    found = []
    for devices, words in ((1, []), (4, ['--mesh=fsdp=-1,tensor=2'])):
        workdir = shutil.copytree(trained_workdir, tmp_path / str(devices))
        command = [sys.executable, '-m', 'pic_jax.cli.main', 'eval', f'--workdir={workdir}', '--examples=4', '--json']
        env = os.environ | {'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
        done = subprocess.run([*command, *words], env=env, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    alone, meshed = found
    for ours, wanted in zip(meshed, alone, strict=True):
        for name, value in wanted.items():
            number = isinstance(value, float)
            assert ours[name] == (pytest.approx(value, rel=1e-4, abs=1e-5) if number else value), name
