"""What every test runs under, and the fixtures that many share."""

import os

# Before jax is imported. Environment variables, so that programs which tests start compute bit for bit the same.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')  # every test compiles for itself
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # tests mostly compile: this halves their time

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pic_jax.config import CorpusConfig, DecoderConfig
from pic_jax.models.decoder import Decoder, init_params

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')

TINY = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
)  # fmt: skip


@pytest.fixture(scope='session')
def assets() -> Path:
    """The folder of real data and checkpoints; tests that need it are skipped without it."""
    folder = os.environ.get('PIC_JAX_ASSETS')
    if not folder:
        pytest.skip('needs real data: set PIC_JAX_ASSETS to its folder')
    return Path(folder)


@pytest.fixture(scope='session')
def tiny_config():
    """A function from overrides to the DecoderConfig of a decoder that runs in no time (D=32, N=4, K=2, L=2)."""

    def make(**overrides) -> DecoderConfig:
        return DecoderConfig(**(TINY | overrides))

    return make


@pytest.fixture(scope='session')
def random_params():
    """A function from a decoder to parameters under which everything matters, word embeddings most of all."""
    scale = {'embedding': 1.0, 'kernel': 0.2, 'bias': 0.2}

    def make(decoder: Decoder, seed: int = 0):
        rng = np.random.default_rng(seed)

        def leaf(path, spec):
            noise = rng.standard_normal(spec.shape).astype(np.float32)
            return jnp.asarray(scale[path[-1].key] * noise if path[-1].key in scale else 1 + 0.3 * noise)

        shapes = jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0))
        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return make


@pytest.fixture(scope='session')
def bare_run():
    """A function (decoder config, compressor settings, objective weights, prefix) -> Run without a tokenizer."""
    from pic_jax.compressors.registry import make_compressor
    from pic_jax.config import CompressorConfig, DataConfig, ObjectiveConfig, RunConfig
    from pic_jax.run import Run
    from pic_jax.training.sharding import single_device_mesh

    def make(config: DecoderConfig, base, compressor=(), objective=(), prefix=(), data=(), remat='none') -> Run:
        decoder = Decoder(config, remat=remat)
        method = CompressorConfig.preset(**dict(compressor))
        settings = RunConfig(
            compressor=method, objective=ObjectiveConfig(**dict(objective)), data=DataConfig(**dict(data))
        )
        return Run(
            settings, decoder, base, None, None, tuple(prefix), make_compressor(method, decoder), single_device_mesh()
        )

    return make


@pytest.fixture(scope='session')
def ragged_batch():
    """A function from sizes to a batch as `data.loader` makes it; padding holds 0 and every row has its own lengths.

    `targets` maps an objective to (T, [first scored token of each row], [end of each row's tokens]).
    """

    def make(vocab: int, S: int, lengths, targets, seed: int = 0):
        rng = np.random.default_rng(seed)
        lengths = np.asarray(lengths, np.int32)
        context = rng.integers(2, vocab, (len(lengths), S)).astype(np.int32)
        context[np.arange(S)[None] >= lengths[:, None]] = 0
        batch = {'context': context, 'context_length': lengths, 'index': np.arange(len(lengths), dtype=np.int32)}
        for name, (T, first, end) in targets.items():
            tokens = rng.integers(2, vocab, (len(lengths), T)).astype(np.int32)
            place, first, end = np.arange(T)[None], np.array(first)[:, None], np.array(end)[:, None]
            tokens[place >= end] = 0
            batch[name] = {'tokens': tokens, 'is_target': (place >= first) & (place < end)}
        return batch

    return make


@pytest.fixture(scope='session')
def tiny_target(tmp_path_factory, tiny_config, random_params) -> Path:
    """A frozen target as HF stores it: byte-level BPE of 600 ids, random weights, 512 positions."""
    from pic_jax.data import generator
    from pic_jax.models import hf
    from pic_jax.training.pretrain import train_tokenizer

    folder = tmp_path_factory.mktemp('target')
    records = generator.generate(CorpusConfig(questions=1), 'train', 60, seed=0)
    train_tokenizer(folder, [record.context for record in records], vocab_size=600)
    config = tiny_config(vocab_size=600, max_position_embeddings=512, bos_token_id=0, eos_token_ids=(1,))
    hf.write_model(folder, jax.tree.map(np.asarray, random_params(Decoder(config))), config, jnp.float32)
    return folder


@pytest.fixture(scope='session')
def text_data(tmp_path_factory) -> Path:
    """24 documents as jsonl, every second one short, so that continuation batches are ragged."""
    from pic_jax.data import generator

    path = tmp_path_factory.mktemp('data') / 'text.jsonl'
    texts = [record.context for record in generator.generate(CorpusConfig(questions=1), 'train', 24, seed=1)]
    texts = [text[: 100 + 5 * number] if number % 2 else text for number, text in enumerate(texts)]
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    return path


@pytest.fixture(scope='session')
def question_data(tmp_path_factory) -> Path:
    """16 short documents as jsonl, two questions each; the documents have different lengths."""
    from pic_jax.data import generator

    path = tmp_path_factory.mktemp('data') / 'questions.jsonl'
    lines = []
    for number, record in enumerate(generator.generate(CorpusConfig(questions=1), 'train', 16, seed=2)):
        told = record.context[round(record.place * len(record.context)) :].split('. ')
        context = '. '.join(told[: 1 + number % 2]).rstrip('.') + '.'
        for prompt in (record.prompt, 'What is written here?'):
            lines.append({'context': context, 'prompt': prompt, 'answers': list(record.answers)})
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


@pytest.fixture(scope='session')
def tiny_settings(tiny_target, text_data) -> dict:
    """Dotted settings of a training of seconds: pic, 24 tokens in chunks of 8 to 6 vectors, 4 steps."""
    return {
        'base': str(tiny_target), 'data.source': str(text_data), 'data.validation': 4, 'data.test': 5,
        'data.context_length': 24, 'data.target_length': 8, 'data.min_context': 4,
        'compressor.method': 'pic', 'compressor.ratio': 4, 'compressor.chunk_size': 8,
        'compressor.context_length': 24, 'compressor.lora.rank': 2, 'optimizer.warmup_steps': 2,
        'train.steps': 4, 'train.batch_size': 4, 'train.log_every': 1, 'train.eval_every': 2,
        'train.eval_examples': 4, 'train.checkpoint_every': 2,
    }  # fmt: skip


@pytest.fixture(scope='session')
def tiny_config_file(tmp_path_factory, tiny_settings) -> Path:
    """The same as a configuration file for the command line."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(
        'from pic_jax.config import default_config\n\n\ndef get_config():\n    config = default_config()\n'
        f'    config.update_from_flattened_dict({tiny_settings!r})\n    return config\n'
    )
    return path


@pytest.fixture(scope='session')
def trained_workdir(tmp_path_factory, tiny_config_file) -> Path:
    """A workdir that `pic-jax train` has finished without interruption. Not to be written to."""
    from pic_jax.cli.main import main

    workdir = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', f'--config={tiny_config_file}', f'--workdir={workdir}']) == 0
    return workdir


@pytest.fixture
def finished_workdir(tmp_path, trained_workdir) -> Path:
    """A copy of it that a test may write to."""
    return Path(shutil.copytree(trained_workdir, tmp_path / 'workdir'))


@pytest.fixture(scope='session')
def random_compressor(trained_workdir):
    """A function of a method and its options: a compressor for that workdir's target with random weights everywhere,
    adapters too, which are zero at the start."""
    import pic_jax
    from pic_jax.api import TrainedCompressor
    from pic_jax.config import CompressorConfig, LoraConfig
    from pic_jax.run import open_run

    def make(method: str, **options) -> TrainedCompressor:
        config = pic_jax.load(trained_workdir).run.config
        options = {'ratio': 4, 'context_length': 24, 'lora': LoraConfig(rank=2)} | options
        run = open_run(dataclasses.replace(config, compressor=CompressorConfig.preset(method, **options)))
        leaves, tree = jax.tree.flatten(run.init_trainable())
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        return TrainedCompressor(run, jax.tree.unflatten(tree, leaves))

    return make


# What a marker expression leaves out is counted where tests are collected (with xdist: in the workers, which all
# collect the same tests) and printed at the end of the run.
_left_out = {'count': 0}


def pytest_deselected(items):
    _left_out['count'] += len(items)


def pytest_sessionfinish(session):
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['left_out'] = _left_out['count']


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _left_out['count'] = getattr(node, 'workeroutput', {}).get('left_out', 0)


def pytest_terminal_summary(terminalreporter):
    if _left_out['count']:
        terminalreporter.write_line(f'{_left_out["count"]} tests were left out (make test-all runs them)')
