"""Every reader of the package with a valid file of its own, and what must hold where it accepts a damaged one.

A reader may refuse (PicJaxError) or accept. What it accepts is judged (benchmarks/fuzz_judges.py), so that a wrong
result taken for right is found, too; `Reader.held_to` says by what.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_judges as judges
import numpy as np
from safetensors.numpy import save_file

from pic_jax.cli import settings
from pic_jax.compressors.streaming import StreamState
from pic_jax.config import LoraConfig, RunConfig, to_mapping
from pic_jax.data import readers, shard_writer, token_shards, tokenise
from pic_jax.errors import PicJaxError
from pic_jax.interop import context_files, contexts, foreign, peft, streams
from pic_jax.models import hf
from pic_jax.models.decoder import KeyValues
from pic_jax.run import TINY_BASE
from pic_jax.tensors import read_tensors
from pic_jax.training import workdir

SHAPES = {'a.b': (2, 3), 'c': (4,)}
BASE = {
    'model_type': 'llama', 'vocab_size': 16, 'hidden_size': 8, 'intermediate_size': 8, 'num_hidden_layers': 2,
    'num_attention_heads': 2, 'num_key_value_heads': 1, 'head_dim': 4, 'max_position_embeddings': 32,
    'rms_norm_eps': 1e-5, 'hidden_act': 'silu', 'tie_word_embeddings': True, 'bos_token_id': 1, 'eos_token_id': [2],
    'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 8.0, 'low_freq_factor': 1.0,
                        'high_freq_factor': 4.0, 'original_max_position_embeddings': 16},
}  # fmt: skip


class Reader(NamedTuple):
    """One reader.

    make: fills a folder with what it needs. file: which of it is damaged; kind: of `mutations.damaged`. read: the
    reader, from that folder. right: raises AssertionError where what it accepts is not what the bytes say, or breaks a
    rule.
    """

    make: Callable[[Path], None]
    file: str
    kind: str
    read: Callable[[Path], Any]
    right: Callable[[bytes, Any], None]

    @property
    def held_to(self) -> str:
        """What a result is compared with."""
        return 'rules' if self.right in RULES else 'the bytes'


def _json_file(name: str, values: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(json.dumps(values))


def _tensors_file(name: str, tensors: dict[str, np.ndarray], **metadata: str) -> Callable[[Path], None]:
    return lambda folder: save_file(tensors, folder / name, metadata or None)


def _model(folder: Path) -> None:
    (folder / 'config.json').write_text(json.dumps(BASE))
    shapes = hf._expected_shapes(hf.read_config(folder))
    tensors = judges.model_tensors(shapes)
    names = sorted(tensors)
    files = {name: f'model-0000{1 + place % 2}-of-00002.safetensors' for place, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': files}))


def _load_model(folder: Path) -> Any:
    return hf.to_hf(hf.load_params(folder, config := hf.read_config(folder)), config)


def _tokens(folder: Path) -> None:
    """A finished folder of two shards, made by the package."""
    tokenizer = _tokenizer()
    (folder / 'notes.jsonl').write_text(''.join(json.dumps({'text': note}) + '\n' for note in judges.NOTES))
    records = readers.read(str(folder / 'notes.jsonl'), 10)
    made = shard_writer.Settings(
        'notes.jsonl', '0' * 64, 'tiny_base', tokenise.fingerprint(tokenizer), 2048, 1, 3, None, None
    )
    shard_writer.write_shards(records, tokenizer, made, folder, 0, 1, lambda line: None)
    shard_writer.finish(folder)


def _tokenizer(cache: list = []) -> Any:  # noqa: B006  (loaded once)
    if not cache:
        cache.append(tokenise.load_tokenizer(TINY_BASE))
    return cache[0]


def _read_tokens(folder: Path) -> list[np.ndarray]:
    index = token_shards.open_folder(folder)
    return [record.context for record in token_shards.Documents(index, np.arange(len(index.lengths)))]


def _right_tokens(data: bytes, found: list[np.ndarray]) -> None:
    judges.right_tokens(_tokenizer(), data, found)


def _finish_again(folder: Path) -> list[np.ndarray] | None:
    (folder / token_shards.INDEX).unlink()
    return _read_tokens(folder) if shard_writer.finish(folder) else None


def _right_when_finished(data: bytes, found: list[np.ndarray] | None) -> None:
    if found is not None:  # the file may say that a shard is missing
        _right_tokens(data, found)


def _tokenizer_files(folder: Path) -> None:
    for name in ('config.json', 'tokenizer.json', 'tokenizer_config.json'):
        (folder / name).write_bytes((TINY_BASE / name).read_bytes())


def _use_tokenizer(folder: Path) -> np.ndarray:
    return tokenise.encode(tokenise.load_tokenizer(folder), 'Mara lives in Stonehaven.')


def stream_state() -> StreamState:
    """Three slots of a model of 2 layers, 1 head of 4 numbers, and two tokens that wait."""
    past = np.zeros((2, 1, 3, 1, 4), np.float32)
    return StreamState(KeyValues(past, past), 3, np.array([5, 6], np.int32), 12)


LORA = {'layers': {'self_attn': {'q_proj': {'lora_A': judges.numbers(2, 8, 2),
                                            'lora_B': judges.numbers(2, 2, 8, start=32)}}}}  # fmt: skip


def _adapter(folder: Path) -> None:
    peft.write_adapter(folder / 'adapter', LORA, LoraConfig(2, 4.0, ('q_proj',)), 'base', None)


def _read_adapter(folder: Path) -> Any:
    return peft.read_adapter(folder / 'adapter', LORA, LoraConfig(2, 4.0, ('q_proj',)))


def _icae(folder: Path) -> None:
    _model(folder)
    tensors = {judges.ICAE_LORA.format(i, f'lora_{part}'): judges.numbers(*shape, start=20 * i)
               for i in range(2) for part, shape in (('A', (2, 8)), ('B', (8, 2)))}  # fmt: skip
    save_file(tensors | {'memory_token_embed.weight': judges.numbers(7, 8)}, folder / 'icae.safetensors')


def _icformer(folder: Path) -> None:
    _model(folder)
    (folder / 'ic').mkdir()
    values = {'model_type': 'icformer', 'hidden_size': 8, 'context_hidden_size': 8, 'num_attention_heads': 2,
              'num_hidden_layers': 1, 'intermediate_size': 8, 'num_key_value_heads': 2}  # fmt: skip
    (folder / 'ic' / 'config.json').write_text(json.dumps(values))
    save_file({'digest_embeddings': judges.numbers(1, 4, 8)}, folder / 'ic' / 'param.safetensors')
    square = np.ones((8, 8), np.float32)
    parts = [f'cross_attn.{name}_proj' for name in 'qkvo'] + [f'mlp.{name}_proj' for name in ('gate', 'up', 'down')]
    norms = ('cross_input_layernorm', 'context_layernorm', 'post_attention_layernorm')
    tensors = {f'encoder.layers.0.{part}.weight': square for part in parts}
    tensors |= {f'encoder.layers.0.{part}.weight': np.ones(8, np.float32) for part in norms}
    tensors['encoder.norm.weight'] = np.ones(8, np.float32)
    save_file(tensors, folder / 'ic' / 'model.safetensors')


def _stored(nested: bool) -> Callable[[Path], None]:
    """Two contexts: of 5 and 2 vectors at ratio 2 in chunks of 4."""
    nesting = {'ratio': 2, 'ratios': [2, 4], 'chunk_size': 4, 'window': None, 'window_split': 'fixed',
               'why_not_shrink': ''}  # fmt: skip
    metadata = {
        'format': 'pic-context', 'format_version': '2' if nested else '1', 'target': 'example/llama',
        'target_revision': '', 'compressor_sha256': '0' * 64, 'hidden_size': '3', 'layout': '', 'template': 'plain',
        'decoder_prefix': '[1]', 'source_tokens': '[10, 3]', 'ids': '["a", "b"]',
    }  # fmt: skip
    metadata |= {'nesting': json.dumps(nesting)} if nested else {}
    embeddings = np.ones((2, 5, 3), np.float32)
    embeddings[1, 2:] = 0
    return _tensors_file('stored.safetensors', {
        'embeddings': embeddings, 'lengths': np.array([5, 2], np.int32),
        'positions': np.array([[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]], np.int32),
        'text_start': np.array([5, 2], np.int32), 'special': np.ones(3, np.float32),
    }, **metadata)  # fmt: skip


def _words(folder: Path) -> Any:
    """The overrides in a file, one a line, applied as the command line does."""
    words = (folder / 'words').read_bytes().decode('utf-8', 'surrogateescape').splitlines()
    return settings.resolve(to_mapping(RunConfig()), [f'--config.{word}' for word in words])


JSONL = (
    {'text': 'one text'}, {'context': 'two', 'prompt': 'which?', 'answers': ['2', 'II']},
    {'input': 'three', 'question': 'what?', 'answer': '3', 'title': 'numbers', 'task': 'icl'},
    {'context': 'four', 'question': 'which?', 'answers': {'text': ['IV']}},
)  # fmt: skip
QA = {'id': '1', 'question': 'who?', 'answers': [{'text': 'Ann', 'answer_start': 0}]}
SQUAD = {'version': '1', 'data': [{'title': 'T', 'paragraphs': [{'context': 'Ann came.', 'qas': [QA]}]}]}
WORDS = b"compressor.ratio=4\ncompressor.lora.targets=('q_proj', 'up_proj')\noptimizer.learning_rate=1e-4\nseed=3\n"
METRICS = ({'step': 0, 'split': 'validation', 'loss': 2.5}, {'step': 1, 'split': 'train', 'loss': 2.0, 'ratio': 4})


def _lines(name: str, values: tuple) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(''.join(json.dumps(value) + '\n' for value in values))


def _read_metrics(folder: Path) -> Any:
    from pic_jax.evaluation.plots import read_metrics

    return read_metrics(folder / 'metrics.jsonl')


def _read_stored(folder: Path) -> contexts.StoredContexts:
    """Reads, and describes: numbers of a file must not break what `contexts show` prints."""
    stored = context_files.read(folder / 'stored.safetensors')
    json.dumps(contexts.describe(stored))
    return stored


def read_stream(folder: Path) -> StreamState:
    """The file `stream` of a folder."""
    return streams.read(folder / 'stream', stream_state(), '0' * 64)


RULES = {
    judges.same_model,
    _right_tokens,
    _right_when_finished,
    judges.right_ids,
    judges.right_stream,
}  # of the result alone

READERS = {
    'contexts': Reader(_stored(False), 'stored.safetensors', 'safetensors', _read_stored, judges.right_contexts),
    'nested contexts': Reader(_stored(True), 'stored.safetensors', 'safetensors', _read_stored, judges.right_contexts),
    'weights': Reader(
        _tensors_file('w', {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, format='x'),
        'w', 'safetensors', lambda folder: read_tensors(folder / 'w', SHAPES, {'format': 'x'}), judges.same_tensors,
    ),
    'base config': Reader(_json_file('config.json', BASE), 'config.json', 'json', hf.read_config, judges.right_shape),
    'base with config': Reader(_model, 'config.json', 'json', _load_model, judges.same_model),
    'base index': Reader(_model, 'model.safetensors.index.json', 'json', _load_model, judges.same_model),
    'base shard': Reader(_model, 'model-00002-of-00002.safetensors', 'safetensors', _load_model, judges.right_shard),
    'run config': Reader(
        _json_file('config.json', to_mapping(RunConfig())), 'config.json', 'json', workdir.read_config,
        judges.right_settings,
    ),
    'jsonl': Reader(
        _lines('a.jsonl', JSONL), 'a.jsonl', 'jsonl', lambda folder: readers.read(str(folder / 'a.jsonl'), 10),
        judges.right_records,
    ),
    'contexts to compress': Reader(
        _lines('a.jsonl', JSONL), 'a.jsonl', 'jsonl', lambda folder: readers.read_contexts(str(folder / 'a.jsonl')),
        judges.right_contexts_to_compress,
    ),
    'squad': Reader(
        _json_file('a.json', SQUAD), 'a.json', 'json', lambda folder: readers.read(str(folder / 'a.json'), 10),
        judges.right_squad,
    ),
    'text': Reader(
        lambda folder: (folder / 'a.txt').write_text('One.\n\nTwo.\n' * 9), 'a.txt', 'bytes',
        lambda folder: readers.read(str(folder / 'a.txt'), 2), judges.right_passages,
    ),
    'token index': Reader(_tokens, 'index.json', 'json', _read_tokens, _right_tokens),
    'token lengths': Reader(_tokens, 'lengths.bin', 'bytes', _read_tokens, _right_tokens),
    'token shard': Reader(_tokens, 'tokens-00001.arrayrecord', 'bytes', _read_tokens, _right_tokens),
    'unfinished shard': Reader(_tokens, 'tokens-00001.json', 'json', _finish_again, _right_when_finished),
    'unfinished end': Reader(_tokens, 'end.json', 'json', _finish_again, _right_when_finished),
    'tokenizer': Reader(_tokenizer_files, 'tokenizer.json', 'json', _use_tokenizer, judges.right_ids),
    'tokenizer config': Reader(_tokenizer_files, 'tokenizer_config.json', 'json', _use_tokenizer, judges.right_ids),
    'adapter': Reader(
        _adapter, 'adapter/adapter_model.safetensors', 'safetensors', _read_adapter, judges.right_adapter,
    ),
    'adapter config': Reader(
        _adapter, 'adapter/adapter_config.json', 'json', _read_adapter, judges.right_adapter_config,
    ),
    'stream state': Reader(
        lambda folder: streams.write(folder / 'stream', stream_state(), '0' * 64), 'stream', 'safetensors',
        read_stream, judges.right_stream,
    ),
    'icae': Reader(
        _icae, 'icae.safetensors', 'safetensors',
        lambda folder: foreign.read_icae(folder / 'icae.safetensors', str(folder), 4, 32.0, 'float32'),
        judges.right_icae,
    ),
    'icformer': Reader(
        _icformer, 'ic/param.safetensors', 'safetensors',
        lambda folder: foreign.read_icformer(folder / 'ic', str(folder), 4, 'float32'),
        judges.right_icformer,
    ),
    'icformer config': Reader(
        _icformer, 'ic/config.json', 'json',
        lambda folder: foreign.read_icformer(folder / 'ic', str(folder), 4, 'float32'),
        judges.right_icformer_config,
    ),
    'overrides': Reader(
        lambda folder: (folder / 'words').write_bytes(WORDS), 'words', 'bytes', _words, judges.right_overrides,
    ),
    'metrics': Reader(_lines('metrics.jsonl', METRICS), 'metrics.jsonl', 'jsonl', _read_metrics, judges.right_metrics),
}  # fmt: skip


def try_one(reader: Reader, folder: Path, data: bytes) -> bool:
    """Reads a damaged file; True where it was accepted.

    Raises:
      AssertionError: the result is not what the file says.
      anything but PicJaxError: the reader failed instead of refusing.
    """
    (folder / reader.file).write_bytes(data)
    try:
        result = reader.read(folder)
    except PicJaxError:
        return False
    reader.right(data, result)
    return True
