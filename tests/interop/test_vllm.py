"""vLLM, as an installed server, reads stored contexts and answers what we answer."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import pic_jax
from pic_jax.cli.main import main
from pic_jax.config import CorpusConfig
from pic_jax.data import generator
from pic_jax.interop import context_files
from pic_jax.run import TINY_BASE

pytestmark = pytest.mark.slow
CLIENT = Path(__file__).parents[2] / 'examples' / 'serve_vllm.py'
START_S = 300


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """The bundled model, served on CPU; its folder and the server's address."""
    program = os.environ.get('PIC_JAX_VLLM') or shutil.which('vllm')
    if program is None:
        pytest.skip('needs vLLM: put `vllm` on PATH, or name it in PIC_JAX_VLLM')
    folder = tmp_path_factory.mktemp('vllm') / 'model'
    shutil.copytree(TINY_BASE, folder, ignore=shutil.ignore_patterns('pic', 'icae'))
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        url = f'http://localhost:{probe.getsockname()[1]}'
    words = ['serve', folder, '--enable-prompt-embeds', '--dtype=float32', '--max-model-len=512', '--enforce-eager']
    settings = {'VLLM_CPU_KVCACHE_SPACE': '1', 'HF_HUB_OFFLINE': '1', 'VLLM_NO_USAGE_STATS': '1'}
    with (folder.parent / 'log').open('w') as log:
        process = subprocess.Popen(
            [program, *map(str, words), f'--port={url.rpartition(":")[2]}'],
            stdout=log, stderr=subprocess.STDOUT, env=os.environ | settings, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(process, f'{url}/health', folder.parent / 'log')
            yield folder, url
        finally:
            os.killpg(process.pid, 15)
            process.wait()


def _wait(process, url, log):
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f'no answer within {START_S} s: {log.read_text()[-3000:]}')


def test_answers_are_ours(server, tmp_path):
    folder, url = server
    records = generator.generate(CorpusConfig(facts_per_context=12, words=170), 'test', 3, seed=2)
    texts = list({record.context: None for record in records})
    for number, text in enumerate(texts):
        (tmp_path / f'{number}.txt').write_text(text)
    files = [str(tmp_path / f'{number}.txt') for number in range(len(texts))]
    assert main(['compress', '--workdir=tiny_base/pic', *files, f'--out={tmp_path / "c.safetensors"}']) == 0
    trained, stored = pic_jax.load('tiny_base/pic'), context_files.read(tmp_path / 'c.safetensors')
    asked = {f'Question: {record.prompt}\nAnswer:' for record in records}
    assert len(asked) >= 8
    answers = set()
    for question in sorted(asked):
        done = subprocess.run(
            [sys.executable, CLIENT, tmp_path / 'c.safetensors', folder, question, url], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        theirs = [line.partition(': ')[2] for line in done.stdout.splitlines()]
        assert theirs == trained.generate(trained.memory_of(stored), [question] * len(texts), max_new_tokens=32)
        answers |= set(theirs)
    assert len(answers) > 8
