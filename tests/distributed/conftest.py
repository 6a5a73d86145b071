"""A small target on disk, and processes that train on it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pic_jax.config import DecoderConfig
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder, init_params
from pic_jax.run import TINY_BASE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def target(tmp_path_factory):
    """Random weights with 8 heads and dimensions that 8 devices divide, and the bundled tokenizer."""
    folder = tmp_path_factory.mktemp('target')
    config = DecoderConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=8, head_dim=8, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=0,
        eos_token_ids=(1,),
    )  # fmt: skip
    params = jax.tree.map(lambda x: 3 * np.asarray(x), init_params(Decoder(config), jax.random.key(0)))
    hf.write_model(folder, params, config, np.float32)
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        shutil.copy(TINY_BASE / name, folder / name)
    return folder


@pytest.fixture(scope='session')
def train(target, tmp_path_factory):
    """A function that trains in `processes` of `devices` each and returns what worker.py prints."""

    def start(workdir, devices=1, processes=1, method='pic', base=target, **overrides):
        spec = {'workdir': str(workdir), 'base': str(base), 'method': method, 'overrides': overrides}
        file = tmp_path_factory.mktemp('spec') / 'spec.json'
        file.write_text(json.dumps(spec))
        environ = dict(os.environ, JAX_PLATFORMS='cpu', PYTHONPATH=str(ROOT))
        environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'
        with socket.socket() as free:
            free.bind(('localhost', 0))
            port = free.getsockname()[1]
        running = []
        for index in range(processes):
            names = {}
            if processes > 1:
                names = {'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_NUM_PROCESSES': str(processes),
                         'JAX_PROCESS_ID': str(index)}  # fmt: skip
            running.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name('worker.py')), str(file)],
                    env=environ | names,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=900) for process in running]
        assert [process.returncode for process in running] == [0] * processes, outputs[0][1][-3000:]
        return json.loads(outputs[0][0].splitlines()[-1])

    return start
