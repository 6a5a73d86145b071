"""Asks SGLang a question on every stored context: python examples/serve_sglang.py CONTEXTS MODEL QUESTION [URL]

The server, where MODEL is the frozen model's folder:
    python -m sglang.launch_server --model-path MODEL --disable-radix-cache
"""

import json
import sys
import urllib.request

from pic_jax.data.tokenise import encode, load_tokenizer, template
from pic_jax.interop import context_files, serving

file, model, question, url = [*sys.argv[1:4], *(sys.argv[4:] or ['http://localhost:30000'])]
stored, words, tokenizer = context_files.read(file), serving.Words(model), load_tokenizer(model)
text = encode(tokenizer, template(stored.metadata.template, tokenizer).question(question))
for row, name in enumerate(stored.metadata.ids):
    prompt = serving.engine_input('SGLang', stored, row, words, text)
    body = serving.sglang_generate(prompt, temperature=0, max_new_tokens=32)
    request = urllib.request.Request(f'{url}/generate', json.dumps(body).encode(), {'Content-Type': 'application/json'})
    with urllib.request.urlopen(request) as reply:
        print(f'{name}: {json.load(reply)["text"].strip()}')
