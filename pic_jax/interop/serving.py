"""Stored contexts for engines that serve the frozen model: what each takes in the place of token embeddings.

A context is [decoder_prefix][memory][special vector][text] (docs/FORMATS.md, "How a decoder reads context i"). What an
engine cannot express is refused. Importing this module needs neither jax nor torch; only vLLM's wire format is torch's.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from pic_jax.errors import PicJaxError
from pic_jax.files import folder_to_fill, read_json, replacing, write_text
from pic_jax.interop.checks import is_int, require
from pic_jax.interop.contexts import StoredContexts, check_target
from pic_jax.models.hf_files import open_file, tensor_files
from pic_jax.tensors import check_dtype, check_finite

_WORDS = 'model.embed_tokens.weight'


class Words:
    """The word embeddings of a model in HF format; rows are read as they are asked for."""

    def __init__(self, folder: str | Path):
        """Finds the table.

        Raises:
          PicJaxError: the folder holds no such model.
        """
        files = tensor_files(Path(folder))
        file = open_file(files[_WORDS]) if _WORDS in files else None
        if file is None or _WORDS not in file.keys():  # noqa: SIM118
            raise PicJaxError(f'{folder}: no tensor {_WORDS}: expected a model in HF format')
        self._path, self._rows = files[_WORDS], file.get_slice(_WORDS)
        check_dtype(self._path, _WORDS, self._rows.get_dtype())
        if len(self._rows.get_shape()) != 2:
            raise PicJaxError(f'{self._path}: {_WORDS} has shape {self._rows.get_shape()}, expected a matrix')

    @property
    def hidden_size(self) -> int:
        """D of the model."""
        return self._rows.get_shape()[1]

    def __getitem__(self, ids: Any) -> np.ndarray:
        """[T, D] embeddings of token ids [T], in the file's dtype.

        Raises:
          PicJaxError: an id is not in the vocabulary, or its embedding is not finite.
        """
        V, D = self._rows.get_shape()
        for token in ids:
            if not 0 <= token < V:
                raise PicJaxError(f'token id {token} is not valid: expected 0 to {V - 1}')
        rows = [self._rows[token : token + 1] for token in ids]
        found = np.concatenate(rows) if rows else np.zeros((0, D), np.float32)
        check_finite(self._path, _WORDS, found)
        return found


class Input(NamedTuple):
    """What the frozen model reads: embeddings [T, D] in the dtype of the memory, position_ids [T] int32."""

    embeddings: np.ndarray
    position_ids: np.ndarray

    @property
    def consecutive(self) -> bool:
        """Whether the position ids are those that an engine gives by itself."""
        return bool(np.array_equal(self.position_ids, np.arange(len(self.position_ids))))


def model_input(stored: StoredContexts, row: int, words: Words, text_ids: Any = (), prefix: bool = True) -> Input:
    """A context and the text after it, as `inputs_embeds` and `position_ids` of transformers.

    Args:
      row: which context. words: of the target. text_ids: token ids behind the special vector, [t].
      prefix: whether `decoder_prefix` stands before it; an engine that renders a template adds it by itself.

    Raises:
      PicJaxError: the memory is keys and values or of another width, or as `Words` refuses a token id. Of the same
        width, the model is not compared: what a folder is called does not say which one it holds.
    """
    check_target(stored, words.hidden_size)
    if stored.embeddings is None:
        raise PicJaxError(
            'the contexts are keys and values (method kv500x): expected memory that is read as embeddings'
        )
    before = stored.metadata.decoder_prefix if prefix else ()
    m, start = int(stored.lengths[row]), len(before) + int(stored.text_start[row])
    if start + len(text_ids) >= 2**31:
        raise PicJaxError(f'text_start={stored.text_start[row]} is not valid: no position id behind it is left')
    dtype = stored.embeddings.dtype
    parts = words[before], stored.embeddings[row, :m], stored.special[None], words[text_ids]
    positions = (
        np.arange(len(before)), len(before) + stored.positions[row, :m], [start], start + 1 + np.arange(len(text_ids)),
    )  # fmt: skip
    return Input(np.concatenate([part.astype(dtype) for part in parts]), np.concatenate(positions).astype(np.int32))


def engine_input(
    engine: str, stored: StoredContexts, row: int, words: Words, text_ids: Any = (), prefix: bool = True
) -> np.ndarray:
    """The embeddings of `model_input`, for an engine that numbers positions by itself.

    Raises:
      PicJaxError: as `model_input`, or the positions have gaps.
    """
    found = model_input(stored, row, words, text_ids, prefix)
    if not found.consecutive:
        raise PicJaxError(
            f'{engine} numbers positions 0, 1, 2, ... by itself, and these contexts have gaps between theirs '
            '(compressor.decoder_positions=spread): use transformers with position_ids'
        )
    return found.embeddings


def vllm_embeds(embeddings_TD: np.ndarray) -> str:
    """Embeddings as vLLM's `prompt_embeds` travel: base64 of what torch.save writes, [T, D] in their own dtype.

    Raises:
      PicJaxError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise PicJaxError('vLLM reads what torch writes: pip install "pic_jax[torch]"') from error
    words = embeddings_TD.view(np.uint16) if embeddings_TD.dtype.itemsize == 2 else embeddings_TD
    tensor = torch.from_numpy(np.array(words))  # a copy: torch.save would write all that a view belongs to
    buffer = io.BytesIO()
    torch.save(tensor.view(torch.bfloat16) if words.dtype == np.uint16 else tensor, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def vllm_completion(model: str, embeddings_TD: np.ndarray, **sampling: Any) -> dict[str, Any]:
    """The body of POST /v1/completions, of a server with --enable-prompt-embeds. No template is applied there."""
    return {'model': model, 'prompt_embeds': vllm_embeds(embeddings_TD), **sampling}


def vllm_chat(
    model: str, stored: StoredContexts, row: int, words: Words, question: str, **sampling: Any
) -> dict[str, Any]:
    """The body of POST /v1/chat/completions: the server renders its template around memory and question.

    Raises:
      PicJaxError: the compressor was not trained with the target's chat template, or read that template's BOS twice, or
        as `engine_input`.
    """
    template = stored.metadata.template
    if template != 'chat':
        raise PicJaxError(
            f'the contexts were made for prompt_template={template}, and the chat endpoint applies the chat template '
            'of the target: use the completions endpoint'
        )
    before = stored.metadata.decoder_prefix
    if len(before) > 1 and before[0] == before[1]:
        raise PicJaxError(
            f'the contexts were made for a decoder that reads token {before[0]} twice at its start (decoder_prefix and '
            "the template's own), and the chat endpoint writes it once: use the completions endpoint"
        )
    memory = engine_input('vLLM', stored, row, words, prefix=False)
    content = [{'type': 'prompt_embeds', 'data': vllm_embeds(memory)}, {'type': 'text', 'text': question}]
    return {'model': model, 'messages': [{'role': 'user', 'content': content}], **sampling}


def sglang_generate(embeddings_TD: np.ndarray, **sampling: Any) -> dict[str, Any]:
    """The body of POST /generate, of a server with --disable-radix-cache."""
    return {'input_embeds': embeddings_TD.astype(np.float32).tolist(), 'sampling_params': sampling}


def write_peft_prompt(folder: str | Path, embeddings_TD: np.ndarray, target: str | Path, base: str) -> None:
    """A prompt-tuning adapter whose virtual tokens are a context: [decoder_prefix][memory][special vector].

    The text after it is then given as token ids, without a BOS of its own.

    Args:
      target: folder of the target, for its shape. base: what the adapter shall call it.

    Raises:
      PicJaxError: the target's config.json lacks a key, or the folder cannot be written; a new one is not left behind.
    """
    path = Path(target) / 'config.json'
    shape = read_json(path)
    for key in ('num_attention_heads', 'num_hidden_layers'):
        require(is_int(shape.get(key), 1), f'{path}: {key}', shape.get(key), 'an integer of at least 1')
    T, D = embeddings_TD.shape
    values = {
        'peft_type': 'PROMPT_TUNING', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base, 'inference_mode': True,
        'num_virtual_tokens': T, 'token_dim': D, 'num_transformer_submodules': 1, 'prompt_tuning_init': 'RANDOM',
        'num_attention_heads': shape['num_attention_heads'], 'num_layers': shape['num_hidden_layers'],
    }  # fmt: skip
    with folder_to_fill(Path(folder)) as part:
        with replacing(part / 'adapter_model.safetensors') as temporary:
            save_file({'prompt_embeddings': np.ascontiguousarray(embeddings_TD)}, temporary, {'format': 'pt'})
        write_text(part / 'adapter_config.json', json.dumps(values, indent=2) + '\n')


def raw_float32(embeddings_TD: np.ndarray) -> bytes:
    """T times D little-endian float32: `embd` of a llama_batch of llama.cpp; the text's tokens follow in the next."""
    return np.ascontiguousarray(embeddings_TD, '<f4').tobytes()
