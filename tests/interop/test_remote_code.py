"""An exported folder works where pic_jax and jax are not installed: transformers loads the code that it holds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pic_jax
from pic_jax.cli.main import main
from pic_jax.run import TINY_BASE

ROOT = Path(pic_jax.__file__).parents[1]
QUESTION = 'What is the colour of the door?'
TEXT = 'The door of the house is green. ' * 5
# Run elsewhere, on the folders that it is given.
SCRIPT = """
import json, sys
from transformers import AutoModel
compressor = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, base=sys.argv[2])
stream = compressor.stream()
stream.feed(sys.argv[3])
print(json.dumps({
    'memory': compressor.compress([sys.argv[3]]).embeddings[0].tolist(),
    'streamed': stream.memory().embeddings[0].tolist(),
    'answers': compressor.generate([sys.argv[3]], [sys.argv[4]], max_new_tokens=8),
    'check': compressor.check(),
    'modules': sorted({name.partition('.')[0] for name in sys.modules}),
}))
"""


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
    """The bundled compressor with its code, and the bundled model, in a folder of their own."""
    folder = tmp_path_factory.mktemp('elsewhere')
    assert main(['export', '--workdir=tiny_base/pic', f'--out={folder / "first"}', '--remote_code']) == 0
    (folder / 'first').rename(folder / 'compressor')
    shutil.copytree(TINY_BASE, folder / 'model', ignore=shutil.ignore_patterns('pic', 'icae'))
    return folder


def used_there(python: str, folder: Path, **environment) -> dict:
    command = [python, '-I', '-c', SCRIPT, 'compressor', 'model', TEXT, QUESTION]
    settings = {'PATH': '/usr/bin:/bin', 'HF_HOME': str(folder / 'cache'), 'HF_HUB_OFFLINE': '1'} | environment
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_fresh_environment_without_jax(elsewhere, tmp_path):
    python = str(tmp_path / 'venv' / 'bin' / 'python')
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
    install = [python, '-m', 'pip', 'install', '--quiet', '--no-compile', f'--constraint={ROOT / "constraints.txt"}']
    done = subprocess.run(
        [*install, 'torch', 'transformers', 'peft', 'safetensors'], capture_output=True, text=True, check=False
    )
    if done.returncode and 'No matching distribution' in done.stderr:
        pytest.skip('needs a package index that has torch, transformers, peft and safetensors')
    assert done.returncode == 0, done.stderr
    found = used_there(python, elsewhere)
    assert not {'jax', 'flax', 'pic_jax', 'orbax'} & set(found['modules'])
    trained = pic_jax.load('tiny_base/pic')
    memory = trained.compress([TEXT])
    wanted = np.asarray(memory.embeddings[0])[np.asarray(memory.valid[0])]
    for name in 'memory', 'streamed':
        assert np.abs(np.array(found[name]) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert found['answers'] == trained.generate(memory, [QUESTION], max_new_tokens=8)
    assert max(found['check'].values()) <= 1e-5
    assert found['check'].keys() == {'embeddings', 'positions', 'text_start', 'memory_lengths'}


def test_transformers_loads_it_by_itself(elsewhere):
    pytest.importorskip('peft', reason="needs peft: pip install 'pic_jax[torch]'")
    found = used_there(sys.executable, elsewhere)
    assert max(found['check'].values()) <= 1e-5
    np.testing.assert_allclose(found['memory'], found['streamed'], atol=1e-4)
    assert len(found['answers']) == 1


def test_the_folder_holds_the_code_and_names_it(elsewhere):
    config = json.loads((elsewhere / 'compressor' / 'config.json').read_text())
    assert config['auto_map'] == {
        'AutoConfig': 'modeling_pic_compressor.PicCompressorConfig',
        'AutoModel': 'modeling_pic_compressor.Compressor',
    }
    file = 'modeling_pic_compressor.py'
    assert (elsewhere / 'compressor' / file).read_bytes() == (ROOT / 'pic_jax' / 'torch_runtime' / file).read_bytes()
    assert 'trust_remote_code=True' in (elsewhere / 'compressor' / 'README.md').read_text()
