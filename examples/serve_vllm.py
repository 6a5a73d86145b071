"""Asks vLLM a question on every stored context: python examples/serve_vllm.py CONTEXTS MODEL QUESTION [URL]

The server, where MODEL is the frozen model's folder: vllm serve MODEL --enable-prompt-embeds
"""

import json
import sys
import urllib.request

from pic_jax.data.tokenise import encode, load_tokenizer, template
from pic_jax.interop import context_files, serving

file, model, question, url = [*sys.argv[1:4], *(sys.argv[4:] or ['http://localhost:8000'])]
stored, words, tokenizer = context_files.read(file), serving.Words(model), load_tokenizer(model)
text = encode(tokenizer, template(stored.metadata.template, tokenizer).question(question))
for row, name in enumerate(stored.metadata.ids):
    prompt = serving.engine_input('vLLM', stored, row, words, text)
    body = serving.vllm_completion(model, prompt, temperature=0, max_tokens=32)
    headers = {'Content-Type': 'application/json'}
    request = urllib.request.Request(f'{url}/v1/completions', json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        print(f'{name}: {json.load(reply)["choices"][0]["text"].strip()}')
