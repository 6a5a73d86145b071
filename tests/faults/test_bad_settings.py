"""Every setting refuses what is not of its type or out of its range, by name, with the value and what is valid."""

import pytest
from refusals import refused

from pic_jax.config import PretrainConfig, RunConfig, to_mapping
from pic_jax.training.workdir import flat

# Every key of each verb's settings.
FIELDS = {
    'train': list(flat(to_mapping(RunConfig()))),
    'pretrain': list(flat(to_mapping(PretrainConfig()))),
}
PRETRAIN_FILE = 'from pic_jax.config import default_pretrain_config as get_config\n'

# Keys with a value of the right type that is out of range, and what the message says is valid.
RANGES = [
    ('seed', '-1', '0 to 4294967295'),
    ('seed', '4294967296', '0 to 4294967295'),
    ('dtype', 'float64', 'one of float32, bfloat16'),
    ('remat', 'some', 'one of none, dots, full'),
    ('prompt_template', 'alpaca', 'one of plain'),
    ('compressor.method', 'pik', 'one of icae'),
    ('compressor.ratio', '0', 'a positive number'),
    ('compressor.ratio', '-4', 'a positive number'),
    ('compressor.context_length', '0', 'a positive number'),
    ('compressor.chunk_size', '0', 'a multiple of compressor.ratio=4'),
    ('compressor.chunk_size', '-8', 'a multiple of compressor.ratio=4'),
    ('compressor.context_sees', 'all', 'one of causal, chunk, chunk+memory'),
    ('compressor.memory_sees_memory', 'none', 'one of own, previous'),
    ('compressor.memory_embeddings', 'per_token', 'one of per_chunk, per_window'),
    ('compressor.positions', 'middle', 'one of end, interleaved, spread'),
    ('compressor.position_origin', 'text', 'one of window, chunk'),
    ('compressor.window', '0', 'a positive number or none'),
    ('compressor.window_split', 'odd', 'one of fixed, even'),
    ('compressor.decoder_positions', 'own', 'one of sequential, spread'),
    ('compressor.encoder_attention', 'full', 'one of causal, bidirectional'),
    ('compressor.projector', 'cnn', 'one of none, linear, mlp'),
    ('compressor.ratios', '(8, 4)', 'ascending numbers that begin with compressor.ratio=4'),
    ('compressor.ratios', '(4, 4)', 'ascending'),
    ('compressor.ratios', '(4, 7)', 'divisors of compressor.chunk_size=8'),
    ('compressor.lora.rank', '-1', '0 (no adapter) or a positive number'),
    ('compressor.lora.alpha', '1e999', 'a finite number'),
    ('compressor.lora.alpha', '1' + '0' * 400, 'a finite float'),
    ('compressor.lora.targets', "('lm_head',)", 'one of q_proj'),
    ('compressor.icformer.layers', '0', 'a positive number'),
    ('compressor.icformer.heads', '-1', "0 (the target's) or a positive number"),
    ('compressor.icformer.head_dim', '5', 'an even number'),
    ('data.validation', '0', 'a positive number'),
    ('data.test', '-1', 'at least 0'),
    ('data.context_length', '0', 'a positive number'),
    ('data.target_length', '-8', 'a positive number'),
    ('data.answer_length', '0', 'a positive number'),
    ('data.questions_per_example', '0', 'a positive number'),
    ('data.min_context', '0', '1 to data.context_length=24'),
    ('data.min_context', '25', '1 to data.context_length=24'),
    ('data.buckets', '(24, 8)', 'ascending lengths ending in data.context_length=24'),
    ('data.buckets', '(0, 24)', 'ascending lengths'),
    ('data.size', '0', 'a positive number'),
    ('data.seed', '-1', 'at least 0'),
    ('data.corpus.facts_per_context', '4', 'at least 5'),
    ('data.corpus.words', '0', 'a positive number'),
    ('data.corpus.ledgers', '1.5', 'a share from 0 to 1'),
    ('data.corpus.word_lists', '-0.1', 'a share from 0 to 1'),
    ('objective.ae', '-1', 'a finite weight of at least 0'),
    ('objective.lm', '1e999', 'a finite weight of at least 0'),
    ('objective.distill', '-0.5', 'a finite weight of at least 0'),
    ('optimizer.name', 'sgd', 'one of adamw, muon'),
    ('optimizer.schedule', 'step', 'one of constant, cosine'),
    ('optimizer.learning_rate', '0', 'a finite positive number'),
    ('optimizer.learning_rate', '-1e-3', 'a finite positive number'),
    ('optimizer.clip_norm', '1e999', 'a finite positive number'),
    ('optimizer.warmup_steps', '-1', 'at least 0'),
    ('optimizer.weight_decay', '1e999', 'at least 0, finite'),
    ('optimizer.b1', '1', '0 to below 1'),
    ('optimizer.b2', '-0.1', '0 to below 1'),
    ('train.steps', '0', 'a positive number'),
    ('train.batch_size', '-4', 'a positive number'),
    ('train.microbatches', '3', 'a divisor of train.batch_size=4'),
    ('train.log_every', '0', 'a positive number'),
    ('train.eval_every', '0', 'a positive number'),
    ('train.eval_examples', '0', 'a positive number'),
    ('train.checkpoint_every', '0', 'a positive number'),
    ('train.keep_checkpoints', '0', 'a positive number'),
    ('train.stall_timeout_s', '0', 'a positive number'),
    ('train.max_skipped_steps', '-1', 'at least 0'),
    ('mesh.data', '0', 'a positive number, or -1 for the rest'),
    ('mesh.fsdp', '-2', 'a positive number, or -1 for the rest'),
    ('mesh.tensor', '-1', 'a positive number, as mesh.data=-1'),
]

# What is no value at all.
MALFORMED = [
    ('--config.seed={[]: 1}', "seed='{[]: 1}'"),
    ('--config.seed=' + '-' * 100_000 + '1', 'seed='),
    ('--config.seed=' + '(' * 5000, 'seed='),
    ('--config.seed=1' + '0' * 6000, 'seed='),
    ('--config.seed=__import__("os")', 'seed='),
    ('--config.seed', 'expected --config.KEY=VALUE'),
    ('--config.=1', 'unknown config key'),
    ('--config.seed.=1', 'unknown config key seed.'),
    ('--config..seed=1', 'unknown config key'),
    ('--config.seed.deeper=1', 'unknown config key seed.deeper'),
    ('--config.__class__=1', 'unknown config key __class__'),
    ('--config.compressor=pic', 'compressor is a group of settings'),
    ('--config.a\nb\x1b[31m=1', r'unknown config key a\nb\x1b[31m'),
    ('--config.sead=1', 'did you mean seed?'),
]


@pytest.fixture
def command(tmp_path, monkeypatch, tiny_config_file):
    """A function from a verb to the command that the settings are added to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pretrain.py').write_text(PRETRAIN_FILE)
    files = {'train': tiny_config_file, 'pretrain': 'pretrain.py'}
    return lambda verb: [verb, f'--config={files[verb]}', '--workdir=run']


@pytest.mark.parametrize(('verb', 'key'), [(verb, key) for verb, keys in FIELDS.items() for key in keys])
def test_a_value_of_another_type_is_refused(command, capsys, tmp_path, verb, key):
    refused(capsys, [*command(verb), f'--config.{key}={{1: 2}}'], 2, f'{key}={{1: 2}} is not valid: expected ')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('key', 'value', 'valid'), RANGES, ids=[f'{key}={value[:20]}' for key, value, _ in RANGES])
def test_a_value_out_of_range_is_refused(command, capsys, tmp_path, key, value, valid):
    named = key.removeprefix('data.') if key.startswith('data.corpus') else key  # the corpus is pretraining's, too
    refused(capsys, [*command('train'), f'--config.{key}={value}'], 2, named, valid)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('word', 'said'), MALFORMED, ids=[repr(word[:30]) for word, _ in MALFORMED])
def test_a_word_that_sets_nothing_is_refused(command, capsys, tmp_path, word, said):
    refused(capsys, [*command('train'), word], 2, said)
    assert not (tmp_path / 'run').exists()
