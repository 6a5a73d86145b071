"""`pic-jax contexts to`: a stored context as what a serving engine takes."""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pic_jax.cli import settings
from pic_jax.errors import ConfigError
from pic_jax.files import replacing, write_text
from pic_jax.interop import serving
from pic_jax.interop.contexts import StoredContexts

ENGINES = ('hf', 'vllm', 'vllm-chat', 'sglang', 'peft', 'llama.cpp')
EXAMPLE = """examples:
  pic-jax contexts to vllm notes.safetensors --base=models/llama --question="Who called?" --out=request.json
  curl -d @request.json -H "Content-Type: application/json" localhost:8000/v1/completions
  pic-jax contexts to peft notes.safetensors --base=models/llama --out=notes-0

hf: inputs_embeds and position_ids as safetensors; vllm, vllm-chat, sglang: the body of a request as JSON; peft: a
prompt-tuning adapter; llama.cpp: float32 numbers for a batch of embeddings. peft and llama.cpp take the question as
tokens behind it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the engine, the context, and what is asked."""
    parser.add_argument('engine', choices=ENGINES, metavar='ENGINE', help=', '.join(ENGINES))
    parser.add_argument('file', metavar='FILE', help='stored contexts')
    parser.add_argument(
        '--base',
        metavar='MODEL',
        required=True,
        help='the frozen model, for its word embeddings: folder or hub:owner/name',
    )
    parser.add_argument('--row', type=int, default=0, metavar='N', help='which context (default 0)')
    parser.add_argument('--question', default='', help='of hf, vllm, vllm-chat, sglang')
    parser.add_argument('--model', default='', help="vLLM's name of the model (default: the contexts' target)")
    parser.add_argument('--max_new_tokens', type=int, default=64, metavar='N', help='of vllm, vllm-chat, sglang')
    parser.add_argument('--out', required=True, metavar='OUT', help='the new file, or folder (peft)')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')


def run(args: argparse.Namespace, out: Path) -> None:
    """Writes OUT.

    Raises:
      ConfigError: --row or --question is not usable.
      PicJaxError: the file or the model is not usable, or the engine cannot express the contexts.
    """
    from pic_jax.models import hub, orbax_base
    from pic_jax.run import named_folder

    stored = settings.read_row(args)
    if args.max_new_tokens < 1:
        raise ConfigError(f'--max_new_tokens={args.max_new_tokens} is not valid: expected a positive number')
    if args.question and args.engine in ('peft', 'llama.cpp'):
        raise ConfigError(f'--question is not valid for {args.engine}: it takes the question as tokens')
    base = named_folder(args.base)
    if orbax_base.is_orbax(base):
        raise ConfigError(
            f'--base={args.base} is an Orbax base: expected Hugging Face format (`pic-jax convert` goes back)'
        )
    words, sampling = serving.Words(base), {'temperature': 0.0}
    target, _ = hub.published(stored.metadata.target)
    model = args.model or target
    if args.engine == 'hf':
        found = serving.model_input(stored, args.row, words, question_ids(args, stored, base))
        _save(out, {'inputs_embeds': found.embeddings[None], 'position_ids': found.position_ids[None].astype(np.int64)})
        return
    if args.engine == 'vllm-chat':
        tokens = {'max_tokens': args.max_new_tokens}
        _write(out, serving.vllm_chat(model, stored, args.row, words, args.question, **sampling, **tokens))
        return
    ids = question_ids(args, stored, base) if args.engine in ('vllm', 'sglang') else ()
    embeddings_TD = serving.engine_input(args.engine, stored, args.row, words, ids)
    if args.engine == 'vllm':
        _write(out, serving.vllm_completion(model, embeddings_TD, **sampling, max_tokens=args.max_new_tokens))
    elif args.engine == 'sglang':
        _write(out, serving.sglang_generate(embeddings_TD, **sampling, max_new_tokens=args.max_new_tokens))
    elif args.engine == 'peft':
        serving.write_peft_prompt(out, embeddings_TD, base, target)
    else:
        with replacing(out) as temporary:
            temporary.write_bytes(serving.raw_float32(embeddings_TD))


def question_ids(args: argparse.Namespace, stored: StoredContexts, base: Path) -> list[int]:
    """The question in the template that the contexts were made for, as token ids."""
    from pic_jax.data.tokenise import encode, load_tokenizer, template

    tokenizer = load_tokenizer(base)
    text = template(stored.metadata.template, tokenizer)
    return encode(tokenizer, text.question(args.question)).tolist()


def _write(out: Path, body: dict) -> None:
    write_text(out, json.dumps(body) + '\n')


def _save(out: Path, tensors: dict[str, np.ndarray]) -> None:
    with replacing(out) as temporary:
        save_file(tensors, temporary, {'format': 'pt'})
