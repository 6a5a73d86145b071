"""The scripts that a user copies run as they are."""

import base64
import http.server
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pic_jax.cli.main import main
from pic_jax.data.tokenise import encode, load_tokenizer
from pic_jax.interop import context_files, serving
from pic_jax.run import TINY_BASE

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ('script', 'path', 'reply'),
    [
        ('serve_vllm.py', '/v1/completions', {'choices': [{'text': ' green '}]}),
        ('serve_sglang.py', '/generate', {'text': ' green '}),
    ],
)
def test_clients_send_the_context_and_print_the_answer(tmp_path, script, path, reply):
    """To a server that only listens; what it hears is what transformers would read."""
    (tmp_path / 'door.txt').write_text('The door of the house is green.')
    contexts = tmp_path / 'door.safetensors'
    assert main(['compress', '--workdir=tiny_base/pic', str(tmp_path / 'door.txt'), f'--out={contexts}']) == 0
    heard = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.path, json.loads(self.rfile.read(int(self.headers['Content-Length'])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(('localhost', 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [contexts, TINY_BASE, 'What is the colour of the door?', f'http://localhost:{server.server_port}']
        done = subprocess.run([sys.executable, EXAMPLES / script, *map(str, words)], capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'door.txt: green\n'
    ((where, body),) = heard
    assert where == path
    if 'prompt_embeds' in body:
        torch = pytest.importorskip('torch', reason="needs torch: pip install 'pic_jax[torch]'")
        found = torch.load(io.BytesIO(base64.b64decode(body['prompt_embeds'])), weights_only=True).numpy()
    else:
        found = np.array(body['input_embeds'], np.float32)
    stored, tokenizer = context_files.read(contexts), load_tokenizer(TINY_BASE)
    text = encode(tokenizer, 'What is the colour of the door?')  # a compressor that continues text: no template
    wanted = serving.model_input(stored, 0, serving.Words(TINY_BASE), text).embeddings
    np.testing.assert_array_equal(found, wanted)
