"""Trains a small target model on the generated corpus, one stage at a time, through the same loop as compressors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.config import CorpusConfig, PretrainConfig
from pic_jax.config.checks import require
from pic_jax.data import generator
from pic_jax.data.rows import RowBatches
from pic_jax.data.tokenise import encode, load_tokenizer, template
from pic_jax.errors import ConfigError
from pic_jax.files import write_text
from pic_jax.memory import Memory
from pic_jax.models import hf
from pic_jax.models.decoder import Decoder, Params, init_params
from pic_jax.models.scoring import Totals, text_logits, token_nats, total
from pic_jax.run import named_folder
from pic_jax.training.induction import with_induction
from pic_jax.training.loop import Job, fit
from pic_jax.training.objectives import Loss
from pic_jax.training.sharding import single_device_mesh
from pic_jax.training.summary import count

BOS, EOS = '<s>', '</s>'
LEAST_VOCABULARY = 258  # every byte, BOS and EOS
LOSSES = {'document': ('text', 'answer', 'repeat'), 'mixture': ('mixture_answer', 'mixture_text'), 'copy': ('copy',)}
VALIDATION_BATCHES = 4


def train_tokenizer(folder: Path, texts: Sequence[str], vocab_size: int) -> None:
    """A byte-level BPE tokenizer in HF format, with ids 0 <s> and 1 </s>.

    Raises:
      ConfigError: there is no room for every byte and these two.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    require(vocab_size >= LEAST_VOCABULARY, 'vocab_size', vocab_size, f'at least {LEAST_VOCABULARY}')
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


def corpus_texts(seed: int) -> list[str]:
    """What the tokenizer is trained on: mostly facts and questions, so that names and values become single tokens."""
    whole = generator.generate(CorpusConfig(word_lists=0.15, questions=1), 'train', 400, seed)
    dense = generator.generate(CorpusConfig(word_lists=0.15, questions=12, words=1), 'train', 4000, seed)
    contexts = [record.context for record in whole] + list(dict.fromkeys(record.context for record in dense))
    return [context + '\n' for context in contexts] + [
        f'Question: {record.prompt}\nAnswer: {record.answers[0]}' for record in dense
    ]


def pretrain(config: PretrainConfig, workdir: Path) -> tuple[Path, float | None]:
    """Trains one stage in the workdir, resuming by itself.

    Returns:
      the folder of the finished model in HF format (bfloat16), WORKDIR/model, and what `config.bar` reached.

    Raises:
      ConfigError: `start` holds a model of another shape than the settings give, or `vocab_size` has no room for bytes.
    """
    folder = workdir / 'model'
    if not (folder / 'tokenizer.json').exists():
        if config.start:
            for name in ('tokenizer_config.json', 'tokenizer.json'):
                write_text(folder / name, (named_folder(config.start) / name).read_text('utf-8'))
        else:
            train_tokenizer(folder, corpus_texts(config.seed), config.vocab_size)
    tokenizer = load_tokenizer(folder)
    plain = template('plain', tokenizer)
    decoder = Decoder(config.decoder)

    def batches(split: str, seed: int) -> RowBatches:
        return RowBatches(config.rows, config.corpus, tokenizer, plain, frequency_V, split, seed)

    frequency_V = token_frequency(tokenizer, config)
    validation = batches('validation', config.seed + 1)
    loss = pretrain_loss(decoder, config)
    validate = make_validation(decoder, loss.weights, [validation[step] for step in range(VALIDATION_BATCHES)])
    job = Job(
        config=config,
        loss=loss,
        init=lambda _: init_params(decoder, jax.random.key(config.seed)),
        given=lambda: initial_params(decoder, config),
        frozen=None,
        batches=batches('train', config.seed),
        sources=lambda batch: 'generated documents',
        validate=validate,
        summary=lambda params: [f'{count(params):,} parameters'],
        mesh=single_device_mesh(),
    )
    fields = [f'{name}_{what}' for name in loss.weights for what in ('nats', 'accuracy')]
    fields += [f'{name}_exact' for name in loss.weights if name.endswith('answer')]
    if config.bar and config.bar not in fields:
        raise ConfigError(f'bar={config.bar!r} is not valid: expected one of {", ".join(fields)}')
    params = fit(job, workdir)
    hf.write_model(folder, jax.tree.map(np.asarray, params), config.decoder, jnp.bfloat16)
    return folder, validate(params)[config.bar] if config.bar else None


def initial_params(decoder: Decoder, config: PretrainConfig) -> Params:
    """The weights of `config.start`, or fresh ones.

    Fresh matrices have a spread of 0.5/sqrt(fan-in), those that write to the residual stream 1/sqrt(2 L) of it (the
    0.02 of large models leaves the heads of a narrow one without any preference to start from); on top come the
    copying circuits of training/induction.py.
    """
    if config.start:
        folder = named_folder(config.start)
        found = hf.read_config(folder)
        if found != config.decoder:
            raise ConfigError(f'start={config.start} holds {found}, the settings give {config.decoder}')
        return jax.tree.map(jnp.asarray, hf.load_params(folder, found, jnp.float32))

    def rescale(path, x):
        if path[-1].key != 'kernel':
            return x
        writes = path[-2].key in ('o_proj', 'down_proj')
        return x / 0.02 / 2 / x.shape[-2] ** 0.5 / ((2 * config.num_hidden_layers) ** 0.5 if writes else 1)

    fresh = jax.tree_util.tree_map_with_path(rescale, init_params(decoder, jax.random.key(config.seed)))
    return with_induction(fresh, config.decoder, config.seed)


def token_frequency(tokenizer, config: PretrainConfig) -> np.ndarray:
    """[V] how often each id occurs in 200 documents of the corpus."""
    records = generator.generate(CorpusConfig(words=config.corpus.words, questions=1), 'train', 200, config.seed)
    ids = np.concatenate([encode(tokenizer, record.context) for record in records])
    return np.bincount(ids, minlength=config.vocab_size)


def pretrain_loss(decoder: Decoder, config: PretrainConfig) -> Loss:
    """Next-token losses, each averaged over its own tokens; only losses whose rows the stage has."""
    rows = config.rows
    has = {'text': rows.documents + rows.repeats, 'answer': rows.documents, 'repeat': rows.repeats,
           'mixture_answer': rows.notes, 'mixture_text': rows.mixtures, 'copy': rows.copies}  # fmt: skip
    weights = {name: getattr(rows, name.split('_')[0]) for name, number in has.items() if number}

    def totals(params: Params, _: None, batch: dict[str, Any]) -> dict[str, Totals]:
        scores = {kind: token_scores(decoder, params, kind, batch[kind])[0] for kind in batch}
        return {name: total(scores[kind], batch[kind][name]) for kind, name in _losses(batch, weights)}

    def counts(batch: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: jnp.sum(batch[kind][name]) for kind, name in _losses(batch, weights)}

    return Loss(weights, totals, counts)


def token_scores(decoder: Decoder, params: Params, kind: str, rows: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Nats of each token given those before it, and whether it is the likeliest, [B, T] each.

    Column 0 is 0 for plain rows, which start with nothing before them.
    """
    tokens_BT = rows['tokens']
    logits_BTV: Any
    if kind == 'mixture':
        words_BSD = decoder.apply({'params': params}, rows['context'], method='embed')
        mixed_BKD = jnp.einsum('bks,bsd->bkd', rows['weights'], words_BSD)
        slot_BK = jnp.broadcast_to(jnp.arange(mixed_BKD.shape[1], dtype=jnp.int32), mixed_BKD.shape[:2])
        slots_B, stride_B = rows['slots'], rows['stride']
        memory = Memory(mixed_BKD, slot_BK * stride_B[:, None], slot_BK < slots_B[:, None], slots_B * stride_B)
        logits_BTV = text_logits(decoder, params, memory, None, (0,), tokens_BT)
        targets_BT, pad = tokens_BT, 0
    else:
        logits_BTV = decoder.apply({'params': params}, tokens_BT[:, :-1], method='forward')
        targets_BT, pad = tokens_BT[:, 1:], 1
    nats_BT = token_nats(logits_BTV, targets_BT)
    right_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
    return jnp.pad(nats_BT, ((0, 0), (pad, 0))), jnp.pad(right_BT, ((0, 0), (pad, 0)))


def make_validation(decoder: Decoder, weights: dict[str, float], batches: Sequence[dict[str, Any]]):
    """Validation fields: `loss`, weighted as in training; nats and accuracy per token of every loss that has a weight;
    and of those `answer_exact`, `mixture_answer_exact`."""
    scored = {kind: jax.jit(lambda p, rows, kind=kind: token_scores(decoder, p, kind, rows)) for kind in batches[0]}

    def validate(params: Params) -> dict[str, float]:
        nats: dict[str, list[np.ndarray]] = {}
        right: dict[str, list[np.ndarray]] = {}
        exact: dict[str, list[bool]] = {}
        for batch in batches:
            scores = {kind: jax.tree.map(np.asarray, scored[kind](params, rows)) for kind, rows in batch.items()}
            for kind, name in _losses(batch, weights):
                nats_BT, right_BT = scores[kind]
                mask_BT = batch[kind][name]
                nats.setdefault(name, []).append(nats_BT[mask_BT])
                right.setdefault(name, []).append(right_BT[mask_BT])
                exact.setdefault(name, []).extend(_runs_all_true(right_BT, mask_BT))
        fields = {f'{name}_nats': float(np.concatenate(parts).mean()) for name, parts in nats.items()}
        loss = sum(weight * fields[f'{name}_nats'] for name, weight in weights.items())
        fields |= {f'{name}_accuracy': float(np.concatenate(parts).mean()) for name, parts in right.items()}
        answers = [name for name in ('answer', 'mixture_answer') if name in exact]
        fields |= {f'{name}_exact': float(np.mean(exact[name])) for name in answers}
        return {'loss': loss} | fields

    return validate


def _losses(batch: dict[str, Any], weights: dict[str, float]) -> list[tuple[str, str]]:
    """(kind of row, loss) of everything in a batch that has a weight: a batch need not have targets of the others."""
    return [(kind, name) for kind in batch for name in LOSSES[kind] if name in weights]


def _runs_all_true(right_BT: np.ndarray, mask_BT: np.ndarray) -> list[bool]:
    """For every run of True in the mask, whether the whole run is right."""
    results = []
    for right, mask in zip(right_BT, mask_BT, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
        results += [bool(right[start:end].all()) for start, end in edges.reshape(-1, 2)]
    return results
