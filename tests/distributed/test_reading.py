"""A trained compressor is read with the target split over devices."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pic_jax.models import orbax_base

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


def test_every_process_reads_its_parts_of_an_orbax_base(train, target, tmp_path):
    orbax_base.from_hf(target, tmp_path / 'orbax', 'target')
    steps = {'train.steps': 3, 'train.eval_every': 3, 'train.checkpoint_every': 3}
    alone = train(tmp_path / 'hf', **steps)
    mesh = {'mesh.data': 1, 'mesh.fsdp': 4, 'mesh.tensor': 2}
    shared = train(tmp_path / 'run', devices=4, processes=2, base=tmp_path / 'orbax', **mesh, **steps)
    assert len(alone['losses']) == 3
    assert shared['losses'] == pytest.approx(alone['losses'], rel=1e-5)
