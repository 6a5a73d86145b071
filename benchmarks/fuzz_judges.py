"""What must hold where a reader accepts a damaged file: what a second, small reader makes of its bytes, or rules.

Those whose names begin with right_ or same_ take the bytes and the reader's result and raise an error, mostly
AssertionError, where the two do not go together.
"""

import ast
import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from pic_jax.compressors.streaming import StreamState
from pic_jax.config import RunConfig, to_mapping
from pic_jax.data.records import Record
from pic_jax.interop import contexts, foreign

DTYPES = {'F32': np.float32, 'BF16': ml_dtypes.bfloat16, 'F16': np.float16, 'I32': np.int32}
ICAE_LORA = 'icae.base_model.model.model.layers.{}.self_attn.q_proj.{}.default.weight'
LLAMA3 = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
NOTES = [f'note {n} ' * 4 for n in range(6)]  # the documents of the token shards


def decoded(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, read from its header and bytes alone."""
    size = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*entry['data_offsets'])], DTYPES[entry['dtype']]).reshape(entry['shape'])
        for name, entry in header.items()
        if name != '__metadata__'
    }


def same_tensors(data: bytes, found: dict[str, np.ndarray]) -> None:
    told = decoded(data)
    assert told.keys() == found.keys()
    for name, array in found.items():
        assert array.dtype == told[name].dtype
        assert array.shape == told[name].shape
        assert array.tobytes() == told[name].tobytes()
        assert np.isfinite(array.astype(np.float32)).all()


def right_contexts(data: bytes, found: contexts.StoredContexts) -> None:
    """The rules of docs/FORMATS.md once more, context by context."""
    same_tensors(data, contexts.tensors_of(found))
    assert len(found.metadata.ids) == len(found.metadata.source_tokens) == len(found)
    for i, k in enumerate(found.lengths.tolist()):
        ids = found.positions[i].tolist()
        assert 1 <= k <= len(ids)
        assert ids[:k] == sorted({place for place in ids[:k] if place >= 0})
        assert found.text_start[i] > ids[k - 1]
        assert not any(ids[k:])
        for name, array in found.vectors.items():
            assert not np.moveaxis(array[i], contexts.slot_axis(name) - 1, 0)[k:].any()


def same_values(told: Any, found: Any, path: str = '') -> None:
    """Everything that a JSON file says is what the settings say; None takes a preset's value, lists become tuples."""
    if isinstance(told, dict):
        assert isinstance(found, dict)
        for key, value in told.items():
            same_values(value, found[key], f'{path}.{key}')
    elif isinstance(told, list):
        assert [(each, type(each)) for each in found] == [(each, type(each)) for each in told], path
    elif told is None:
        assert found is None or path.startswith('.compressor.'), path
    elif (path, type(told)) != ('.remat', bool):  # names of older files
        assert (found, isinstance(found, bool)) == (told, isinstance(told, bool)), path


def right_shape(data: bytes, found: Any) -> None:
    told = json.loads(data)
    for key in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads'):
        assert type(told[key]) is int
        assert getattr(found, key) == told[key] > 0
    heads = told['num_attention_heads']
    assert found.num_key_value_heads == (told.get('num_key_value_heads') or heads)
    assert found.head_dim == (told.get('head_dim') or told['hidden_size'] // heads)
    assert 0 < found.rms_norm_eps == told.get('rms_norm_eps', 1e-6) < 1e39  # what float32 holds
    rope = told.get('rope_parameters') or told.get('rope_scaling') or {}
    assert 0 < found.rope.theta == (rope.get('rope_theta', told.get('rope_theta')) or 10000.0) < 1e39
    assert found.rope.type == rope.get('rope_type', rope.get('type', 'default'))
    for key in LLAMA3 if found.rope.type == 'llama3' else ():
        assert getattr(found.rope, key) == rope[key] > 0
    assert found.tie_word_embeddings is told.get('tie_word_embeddings', False)
    assert found.max_position_embeddings == told['max_position_embeddings']
    eos = told.get('eos_token_id')
    assert [*found.eos_token_ids] == ([] if eos is None else eos if isinstance(eos, list) else [eos])
    assert found.bos_token_id == told.get('bos_token_id')
    assert all(0 <= token < found.vocab_size for token in found.eos_token_ids)


def _lines(data: bytes) -> list[tuple[int, Any]]:
    """(number from 1, value) of the lines of a .jsonl file that are not blank; a line ends as in any text file."""
    text = data.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    return [(number, json.loads(line)) for number, line in enumerate(text.split('\n'), 1) if line.strip()]


def _answers(value: Any) -> tuple[str, ...]:
    """In order, without blanks and doubles."""
    values = value.get('text') if isinstance(value, dict) else value
    return tuple(dict.fromkeys(each for each in ([values] if isinstance(values, str) else values) if each.strip()))


def right_records(data: bytes, records: list[Record]) -> None:
    """Every text that is not blank, and every question that has an answer, in order."""
    told = []
    for _, line in _lines(data):
        if 'text' in line:
            told += [(line['text'], None, (), line['text'], 'qa')] if line['text'].strip() else []
            continue
        context = line['context'] if 'context' in line else line['input']
        prompt = (line['prompt'] if 'prompt' in line else line['question']).strip()
        answers = _answers(line['answers'] if 'answers' in line else line['answer'])
        group = line['title'] if isinstance(line.get('title'), str) and line['title'] else context
        task = 'icl' if line.get('task') == 'icl' else 'qa'
        told += [(context, prompt, answers, group, task)] if answers else []
    assert [(each.context, each.prompt, each.answers, each.group, each.task) for each in records] == told


def right_contexts_to_compress(data: bytes, named: list[tuple[str, str]]) -> None:
    keys = ('text', 'context', 'input')
    assert named == [
        (f'a.jsonl:{number}', next(line[key] for key in keys if key in line)) for number, line in _lines(data)
    ]


def right_squad(data: bytes, records: list[Record]) -> None:
    """Every question that has an answer, in order, with the article that keeps it on one side of a split."""
    told = []
    for number, article in enumerate(json.loads(data.decode('utf-8-sig'))['data']):
        title = article.get('title') or f'article {number}'
        for paragraph in article['paragraphs']:
            group = title if isinstance(title, str) else paragraph['context']
            for question in paragraph['qas']:
                if answers := _answers([answer['text'] for answer in question['answers']]):
                    told.append((paragraph['context'], question['question'].strip(), answers, group))
    assert [(each.context, each.prompt, each.answers, each.group) for each in records] == told


def right_passages(data: bytes, records: list[Record]) -> None:
    """Nothing but white space is lost between passages."""
    assert ''.join(data.decode('utf-8-sig').split()) == ''.join(''.join(each.context.split()) for each in records)


def right_metrics(data: bytes, records: list[dict[str, Any]]) -> None:
    assert json.dumps(records) == json.dumps([json.loads(line) for line in data.splitlines()])  # NaN is not NaN
    assert all(type(each['step']) is int and each['step'] >= 0 for each in records)


def right_settings(data: bytes, found: RunConfig) -> None:
    same_values(json.loads(data), to_mapping(found))


def right_overrides(data: bytes, found: RunConfig) -> None:
    """The last word for a key is what the settings say."""
    told: dict[str, Any] = {}
    for word in data.decode('utf-8', 'surrogateescape').splitlines():
        path, _, text = word.partition('=')
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = text
        told[path] = list(value) if isinstance(value, tuple) else value
    settings = to_mapping(found)
    for path, value in told.items():
        own: Any = settings
        for key in path.split('.'):
            own = own[key]
        same_values(value, own, f'.{path}')


def right_shard(data: bytes, state: dict[str, np.ndarray]) -> None:
    """What the model has of this file is what safetensors makes of it."""
    told = safetensors.numpy.load(data)
    assert told.keys() & state.keys()
    for name in told.keys() & state.keys():
        same_numbers(told[name], state[name])
    assert all(np.isfinite(array.astype(np.float32)).all() for array in state.values())


def same_numbers(told: np.ndarray, found: Any) -> None:
    """The same values and shape, whatever the width of their floats."""
    assert np.array_equal(np.asarray(told, np.float32), np.asarray(found, np.float32))


def numbers(*shape: int, start: int = 0) -> np.ndarray:
    """Float32 that are all different."""
    return np.arange(start, start + math.prod(shape), dtype=np.float32).reshape(shape)


def model_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of the model that is written, by their names in the file."""
    return {name: numbers(*shape, start=1000 * place) for place, (name, shape) in enumerate(sorted(shapes.items()))}


def same_model(data: bytes, state: dict[str, np.ndarray]) -> None:
    """The model that was written."""
    told = model_tensors({name: array.shape for name, array in state.items()})
    assert all(np.array_equal(told[name], array) for name, array in state.items())


def right_tokens(tokenizer: Any, data: bytes, found: list[np.ndarray]) -> None:
    """The documents that were written, whatever a file beside their tokens says."""
    assert all(ids.dtype == np.int32 for ids in found)
    assert [ids.tolist() for ids in found] == tokenizer(NOTES, add_special_tokens=False)['input_ids']


def right_ids(data: bytes, ids: np.ndarray) -> None:
    assert ids.dtype == np.int32
    assert (ids >= 0).all()


def right_stream(data: bytes, state: StreamState) -> None:
    assert (state.pending >= 0).all()
    assert state.num_tokens >= state.past_count
    assert all(np.isfinite(np.asarray(array)).all() for array in state.past)


def right_adapter(data: bytes, found: dict[str, Any]) -> None:
    """PEFT's [R, in] and [out, R] of two layers."""
    told = safetensors.numpy.load(data)
    for part, stacked in found['layers']['self_attn']['q_proj'].items():
        for i, layer in enumerate(stacked):
            same_numbers(told[f'base_model.model.model.layers.{i}.self_attn.q_proj.{part}.weight'].T, layer)


def right_adapter_config(data: bytes, found: dict[str, Any]) -> None:
    """The plain LoRA of the settings, with its own tensors."""
    told = json.loads(data)
    assert (told['peft_type'], told['r'], told['lora_alpha'], told['target_modules']) == ('LORA', 2, 4, ['q_proj'])
    lora_A, lora_B = (found['layers']['self_attn']['q_proj'][name] for name in ('lora_A', 'lora_B'))
    assert np.array_equal(lora_A, numbers(2, 8, 2))
    assert np.array_equal(lora_B, numbers(2, 2, 8, start=32))


def right_icae(data: bytes, found: tuple[RunConfig, dict[str, Any]]) -> None:
    """A table of memory and what follows it, and the adapters as they come."""
    told, trained = safetensors.numpy.load(data), found[1]
    memory, table = trained['memory_embeddings'], told['memory_token_embed.weight']
    same_numbers(table[: len(memory)], memory)
    for vector, own in zip(table[len(memory) :], foreign.SPECIALS, strict=True):
        same_numbers(vector, trained['special'][own])
    for part, stacked in trained['lora']['layers']['self_attn']['q_proj'].items():
        for i, layer in enumerate(stacked):
            same_numbers(told[ICAE_LORA.format(i, part)].T, layer)


def right_icformer(data: bytes, found: tuple[RunConfig, dict[str, Any]]) -> None:
    """Digests, and special vectors where there are any."""
    told, trained = safetensors.numpy.load(data), found[1]
    same_numbers(told['digest_embeddings'][0], trained['memory_embeddings'])
    for name, vector in trained['special'].items():
        same_numbers(told[name.upper()][0, 0] if name.upper() in told else np.zeros(8), vector)


def right_icformer_config(data: bytes, found: tuple[RunConfig, dict[str, Any]]) -> None:
    """Sizes, and tensors of these sizes."""
    told, options, trained = json.loads(data), found[0].compressor.icformer, found[1]
    assert options.layers == told['num_hidden_layers']
    assert options.heads == told.get('num_attention_heads', 32)
    assert options.intermediate_size == told['intermediate_size']
    assert options.heads * options.head_dim == told['hidden_size']
    assert np.shape(trained['icformer']['layers']['mlp']['gate_proj']['kernel']) == (options.layers, 8, 8)
    assert np.array_equal(trained['memory_embeddings'], numbers(4, 8))
