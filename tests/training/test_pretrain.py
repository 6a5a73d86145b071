"""Stages of pretraining, with every kind of row, in seconds."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from pic_jax.config import CorpusConfig, OptimizerConfig, PretrainConfig, RowsConfig, TrainConfig
from pic_jax.data import generator
from pic_jax.data.rows import RowBatches
from pic_jax.data.tokenise import load_tokenizer, template
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder
from pic_jax.training import pretrain as pretraining
from pic_jax.training.pretrain import pretrain
from pic_jax.training.telemetry import MEASURED

CONFIG = PretrainConfig(
    vocab_size=600, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=512,
    corpus=CorpusConfig(facts_per_context=5, words=1, questions=2),
    rows=RowsConfig(
        documents=1, repeats=1, mixtures=1, notes=1, copies=2, row_length=288, text_length=64, mixture_slots=48,
        mixture_ratios=(4,), copy_length=96, copy_period=8,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule='constant', warmup_steps=0),
    train=TrainConfig(steps=3, batch_size=1, log_every=1, eval_every=3, checkpoint_every=2),
    bar='copy_accuracy',
)  # fmt: skip
LOSSES = ('text', 'answer', 'repeat', 'mixture_answer', 'mixture_text', 'copy')


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    """A workdir of a finished stage; its tokenizer is trained on fewer texts than usual. Not to be written to."""
    workdir = tmp_path_factory.mktemp('stage')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, 'corpus_texts', few_texts)
        returned = pretrain(CONFIG, workdir)
    return workdir, returned


def few_texts(seed: int) -> list[str]:
    """Enough to train a tokenizer of 600 ids."""
    return [record.context for record in generator.generate(CONFIG.corpus, 'train', 60, seed=seed)]


def records(workdir) -> list[dict]:
    """metrics.jsonl without the fields that depend on the clock."""
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith(MEASURED)} for record in found]


def test_a_vocabulary_without_room_for_every_byte_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='vocab_size=257 is not valid: expected at least 258'):
        pretraining.train_tokenizer(tmp_path, ['text'], 257)
    assert not list(tmp_path.iterdir())


def test_a_stage_of_copying_takes_steps_and_leaves_a_model(tmp_path, monkeypatch):
    """The shortest stage: one loss, two steps, too few to learn from."""
    monkeypatch.setattr(pretraining, 'corpus_texts', few_texts)
    rows = RowsConfig(copies=2, copy_length=24, copy_period=8)
    train = dataclasses.replace(CONFIG.train, steps=2, eval_every=2)
    folder, reached = pretrain(dataclasses.replace(CONFIG, rows=rows, train=train), tmp_path)
    found = records(tmp_path)
    assert [(r['split'], r['step']) for r in found] == [
        ('validation', 0), ('train', 1), ('train', 2), ('validation', 2),
    ]  # fmt: skip
    assert found[-1]['copy_nats'] != found[0]['copy_nats']
    assert reached == found[-1]['copy_accuracy']
    assert hf.read_config(folder) == CONFIG.decoder
    assert hf.load_params(folder, CONFIG.decoder, np.float32)['embed_tokens']['embedding'].shape == (600, 64)


@pytest.mark.slow
def test_a_stage_leaves_a_model_and_records_of_every_loss(stage):
    workdir, (folder, reached) = stage
    assert folder == workdir / 'model'
    assert hf.read_config(folder) == CONFIG.decoder
    assert len(load_tokenizer(folder)) <= 600
    found = records(workdir)
    assert [(r['split'], r['step']) for r in found] == [
        ('validation', 0), ('train', 1), ('train', 2), ('train', 3), ('validation', 3),
    ]  # fmt: skip
    for record in found:
        assert {f'{name}_nats' for name in LOSSES} <= set(record)
    assert {'answer_exact', 'mixture_answer_exact'} | {f'{name}_accuracy' for name in LOSSES} <= set(found[-1])
    assert found[-1]['loss'] < found[0]['loss'] - 0.2  # three small AdamW steps
    assert reached == found[-1]['copy_accuracy']


@pytest.mark.slow
def test_a_stage_resumes_bit_for_bit(stage, tmp_path):
    workdir, _ = stage
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    shutil.rmtree(copy / 'checkpoints' / '3')
    (copy / 'model' / 'model.safetensors').unlink()
    pretrain(CONFIG, copy)
    assert records(copy) == records(workdir)
    assert (copy / 'model/model.safetensors').read_bytes() == (workdir / 'model/model.safetensors').read_bytes()


@pytest.mark.slow
def test_the_next_stage_goes_on_from_the_weights_and_tokenizer(stage, tmp_path):
    workdir, _ = stage
    train = dataclasses.replace(CONFIG.train, steps=1)
    folder, _ = pretrain(dataclasses.replace(CONFIG, start=str(workdir / 'model'), train=train), tmp_path)
    before, after = records(workdir), records(tmp_path)[0]
    assert after['step'] == 0
    for name in LOSSES:
        # Up to the rounding of the stored model to bfloat16.
        assert after[f'{name}_nats'] == pytest.approx(before[-1][f'{name}_nats'], rel=1e-2)
    assert abs(after['loss'] - before[-1]['loss']) < 0.1 * abs(before[0]['loss'] - before[-1]['loss'])
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        assert (folder / name).read_bytes() == (workdir / 'model' / name).read_bytes()
    old, new = (load_file(path / 'model.safetensors') for path in (workdir / 'model', folder))
    assert all(not np.array_equal(old[name], new[name]) for name in old if 'proj' in name)


@pytest.mark.slow
def test_a_start_of_another_shape_is_refused(stage, tmp_path):
    workdir, _ = stage
    other = dataclasses.replace(CONFIG, start=str(workdir / 'model'), intermediate_size=64)
    with pytest.raises(ConfigError, match=r'start=.* holds .*intermediate_size=48.*give .*intermediate_size=64'):
        pretrain(other, tmp_path)
    assert not list((tmp_path / 'checkpoints').iterdir())


def test_a_tokenizer_is_there_when_all_of_it_is(tmp_path, tiny_target, monkeypatch):
    def fail(source, target):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(PicJaxError, match=r'model/tokenizer_config\.json: cannot be written: No space left'):
        pretrain(dataclasses.replace(CONFIG, start=str(tiny_target)), tmp_path)
    assert not list((tmp_path / 'model').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ('numbers', 'losses'),
    [
        ({'documents': 1, 'copies': 1}, ('text', 'answer', 'copy')),
        ({'repeats': 1, 'notes': 1}, ('text', 'repeat', 'mixture_answer')),
        ({'mixtures': 1}, ('mixture_text',)),
    ],
)
def test_validation_has_the_losses_of_the_rows_there_are(stage, numbers, losses):
    """Rows without targets of a loss must not make it a mean over nothing."""
    _, (folder, _) = stage
    none = dict.fromkeys(('documents', 'repeats', 'notes', 'mixtures', 'copies'), 0)
    rows = dataclasses.replace(CONFIG.rows, text=0.5, **none | numbers)
    tokenizer, decoder = load_tokenizer(folder), Decoder(CONFIG.decoder)
    frequency = np.ones(len(tokenizer))
    batches = RowBatches(rows, CONFIG.corpus, tokenizer, template('plain', tokenizer), frequency, 'validation', 0)
    weights = pretraining.pretrain_loss(decoder, dataclasses.replace(CONFIG, rows=rows)).weights
    assert tuple(weights) == losses
    params = hf.load_params(folder, CONFIG.decoder, np.float32)
    fields = pretraining.make_validation(decoder, weights, [batches[0]])(params)
    assert {name for name in fields if name.endswith('_nats')} == {f'{name}_nats' for name in losses}
    assert fields['loss'] == pytest.approx(sum(weights[name] * fields[f'{name}_nats'] for name in losses))
    assert np.isfinite(list(fields.values())).all()


@pytest.mark.slow
def test_an_unknown_bar_names_the_fields_there_are(stage, tmp_path):
    workdir, _ = stage
    rows = RowsConfig(copies=2, copy_length=16, copy_period=8)
    train = dataclasses.replace(CONFIG.train, steps=1)
    wrong = dataclasses.replace(CONFIG, start=str(workdir / 'model'), rows=rows, train=train, bar='copy_exact')
    with pytest.raises(ConfigError, match="bar='copy_exact' is not valid: expected one of copy_nats, copy_accuracy"):
        pretrain(wrong, tmp_path)
