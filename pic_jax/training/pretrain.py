"""Trains a small target model from scratch, through the same loop as compressors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.config import PretrainConfig
from pic_jax.data import generator, readers
from pic_jax.data.rows import RowBatches, document_rows
from pic_jax.data.tokenise import load_tokenizer, template
from pic_jax.files import write_text
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder, Params, init_params
from pic_jax.models.scoring import Totals
from pic_jax.training.loop import Job, count, fit
from pic_jax.training.objectives import Loss

BOS, EOS = '<s>', '</s>'
TOKENIZER_RECORDS = 24_000


def train_tokenizer(folder: Path, texts: Sequence[str], vocab_size: int) -> None:
    """A byte-level BPE tokenizer in HF format, with ids 0 <s> and 1 </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    settings = {'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': BOS, 'eos_token': EOS}
    write_text(folder / 'tokenizer_config.json', json.dumps(settings, indent=2) + '\n')
    # Last: a tokenizer.json that is there says that the tokenizer is complete.
    write_text(folder / 'tokenizer.json', tokenizer.to_str(pretty=True))


def pretrain(config: PretrainConfig, workdir: Path) -> Path:
    """Trains tokenizer and decoder in the workdir, resuming by itself.

    Returns:
      the folder of the finished model in HF format (bfloat16), WORKDIR/model.
    """
    folder = workdir / 'model'
    every_fact = generator.PEOPLE * generator.ATTRIBUTES
    records = generator.generate(config.corpus.size, config.corpus.seed, every_fact)
    records = readers.split(records, config.corpus.validation, config.corpus.test)
    if not (folder / 'tokenizer.json').exists():
        texts = [
            f'{record.context}\n{record.prompt}\n{record.answers[0]}' for record in records['train'][:TOKENIZER_RECORDS]
        ]
        train_tokenizer(folder, texts, config.vocab_size)
    tokenizer = load_tokenizer(folder)
    plain = template('plain', tokenizer)
    rows = {name: document_rows(records[name], tokenizer, plain, config.row_length) for name in records}
    decoder = Decoder(config.decoder)
    loss = pretrain_loss(decoder, config)
    held_out = RowBatches(
        rows['validation'], len(rows['validation']), (32, config.copy_length), config.vocab_size, config.seed + 1
    )[0]
    job = Job(
        config=config,
        loss=loss,
        init=lambda: init_params(decoder, jax.random.key(config.seed)),
        frozen=None,
        batches=RowBatches(
            rows['train'],
            config.train.batch_size,
            (config.copy_rows, config.copy_length),
            config.vocab_size,
            config.seed,
        ),
        sources=lambda batch: 'generated documents',
        validate=make_validation(decoder, held_out),
        summary=lambda params: [f'{count(params):,} parameters, {len(rows["train"]):,} documents'],
    )
    params = fit(job, workdir)
    hf.write_model(folder, jax.tree.map(np.asarray, params), config.decoder, jnp.bfloat16)
    return folder


def pretrain_loss(decoder: Decoder, config: PretrainConfig) -> Loss:
    """Next-token losses over text, answers and copies, each averaged over its own tokens."""
    weights = {'text': config.text, 'answer': config.answer, 'copy': config.copy}

    def totals(params: Params, _: None, batch: dict[str, Any]) -> dict[str, Totals]:
        document, copy = batch['document'], batch['copy']
        nats_BT, _ = token_scores(decoder, params, document['tokens'])
        copy_CU, _ = token_scores(decoder, params, copy['tokens'])
        return {
            'text': _masked(nats_BT, document['is_text']),
            'answer': _masked(nats_BT, document['is_answer']),
            'copy': _masked(copy_CU, copy['is_target']),
        }

    def counts(batch: dict[str, Any]) -> dict[str, jax.Array]:
        document = batch['document']
        masks = {'text': document['is_text'], 'answer': document['is_answer'], 'copy': batch['copy']['is_target']}
        return {name: jnp.sum(mask) for name, mask in masks.items()}

    return Loss(weights, totals, counts)


def token_scores(decoder: Decoder, params: Params, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats of each token given those before it, and whether it is the likeliest, [B, T] each; column 0 is 0."""
    logits_BTV = decoder.apply({'params': params}, tokens_BT, method='forward')[:, :-1]
    log_probs_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
    nats_BT = -jnp.take_along_axis(log_probs_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    right_BT = jnp.argmax(logits_BTV, axis=-1) == tokens_BT[:, 1:]
    return jnp.pad(nats_BT, ((0, 0), (1, 0))), jnp.pad(right_BT, ((0, 0), (1, 0)))


def make_validation(decoder: Decoder, batch: dict[str, Any]):
    """Validation fields: nats and accuracy per token of text, answers and copies; `answer_exact` per answer."""

    @jax.jit
    def scored(params):
        return token_scores(decoder, params, batch['document']['tokens']), token_scores(
            decoder, params, batch['copy']['tokens']
        )

    def validate(params: Params) -> dict[str, float]:
        document, copy = jax.tree.map(np.asarray, scored(params))
        fields = {}
        for name, (nats, right), mask in (
            ('text', document, batch['document']['is_text']),
            ('answer', document, batch['document']['is_answer']),
            ('copy', copy, batch['copy']['is_target']),
        ):
            fields |= {f'{name}_nats': float(nats[mask].mean()), f'{name}_accuracy': float(right[mask].mean())}
        fields['answer_exact'] = float(np.mean(_runs_all_true(document[1], batch['document']['is_answer'])))
        return {'loss': fields['text_nats'] + fields['answer_nats'] + fields['copy_nats']} | fields

    return validate


def _runs_all_true(right_BT: np.ndarray, mask_BT: np.ndarray) -> list[bool]:
    """For every run of True in the mask, whether the whole run is right."""
    results = []
    for right, mask in zip(right_BT, mask_BT, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
        results += [bool(right[start:end].all()) for start, end in edges.reshape(-1, 2)]
    return results


def _masked(nats_BT: jax.Array, mask_BT: jax.Array) -> Totals:
    return Totals(jnp.sum(jnp.where(mask_BT, nats_BT, 0), axis=1), jnp.sum(mask_BT, axis=1))
