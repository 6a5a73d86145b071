"""Rows for pretraining a target: generated documents to read, repeat and unpack, and random tokens to copy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pic_jax.config import CorpusConfig, RowsConfig
from pic_jax.data import generator
from pic_jax.data.records import Record
from pic_jax.data.tokenise import Template, encode, encode_question

REPEAT = '\nRepeat the text:\n'
FIRST_ID = 2  # random tokens leave out <s> and </s>
Part = tuple[np.ndarray, str]  # ids, and the loss that they are targets of ('' is none)


class Row(NamedTuple):
    """Tokens [T] int32, 0-padded, and per loss which of them are its targets, [T] bool."""

    tokens: np.ndarray
    targets: dict[str, np.ndarray]


class RowBatches:
    """Pretraining batches by step: fresh documents in every step, a pure function of (seed, step)."""

    def __init__(
        self, config: RowsConfig, corpus: CorpusConfig, tokenizer, template: Template, frequency_V: np.ndarray,
        split: str, seed: int,
    ):  # fmt: skip
        """`frequency_V` is how often each id occurs in the corpus: rare tokens weigh more in mixtures."""
        self._config, self._corpus, self._split, self._seed = config, corpus, split, seed
        self._tokenizer, self._template = tokenizer, template
        self._surprisal_V = -np.log((frequency_V + 1) / (frequency_V + 1).sum())

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """The batch of a step.

        Returns:
          per kind of row that has any: `tokens` int32 [B, T] and a bool [B, T] per loss: `text`, `answer` and `repeat`
          of kind `document`; `mixture_answer` and `mixture_text` of kind `mixture`; `copy`. The tokens of
          a `mixture` row stand behind the memory, which comes with `context` int32 [B, S], `weights` float32
          [B, K, S] (slot by context token), and `slots` int32 [B], how many are used.
        """
        config, rng = self._config, np.random.default_rng((self._seed, step))
        per_step = config.documents + config.repeats + config.mixtures
        numbers = iter(range(step * per_step, (step + 1) * per_step))

        def draw() -> list[Record]:
            return generator.document(self._corpus, self._split, self._seed, next(numbers))

        batch = {}
        if config.documents + config.repeats:
            rows = [document_row(draw(), self._tokenizer, self._template, config) for _ in range(config.documents)]
            rows += [repeat_row(draw()[0].context, self._tokenizer, config) for _ in range(config.repeats)]
            batch['document'] = _stacked(rows, ('text', 'answer', 'repeat'))
        if config.mixtures:
            batch['mixture'] = self._mixtures([draw() for _ in range(config.mixtures)], rng)
        if config.copies:
            batch['copy'] = _stacked(
                [copy_row(config, len(self._surprisal_V), rng) for _ in range(config.copies)], ('copy',)
            )
        return batch

    def _mixtures(self, documents: list[list[Record]], rng: np.random.Generator) -> dict[str, np.ndarray]:
        config = self._config
        rows, S = [], config.mixture_slots * max(config.mixture_ratios)
        contexts = [encode(self._tokenizer, records[0].context)[:S] for records in documents]
        S = max(len(context) for context in contexts)
        S = -(-S // 64) * 64  # few shapes
        context_BS = np.zeros((len(documents), S), np.int32)
        weights_BKS = np.zeros((len(documents), config.mixture_slots, S), np.float32)
        slots_B = np.zeros(len(documents), np.int32)
        for row, (context, records) in enumerate(zip(contexts, documents, strict=True)):
            ratio = int(rng.choice(config.mixture_ratios))
            context = context[: config.mixture_slots * ratio]
            context_BS[row, : len(context)] = context
            mixed = mixture_weights(self._surprisal_V[context], ratio, rng)
            weights_BKS[row, : len(mixed), : len(context)] = mixed
            slots_B[row] = len(mixed)
            if row % 2:
                parts = _repeated(self._tokenizer, context, 'mixture_text')
            else:
                parts = _questions(records, self._tokenizer, self._template, '', 'mixture_answer')
            rows.append(_row(parts, config.text_length))
        memory = {'context': context_BS, 'weights': weights_BKS, 'slots': slots_B}
        return _stacked(rows, ('mixture_answer', 'mixture_text')) | memory


def document_row(records: Sequence[Record], tokenizer, template: Template, config: RowsConfig) -> Row:
    """[bos][context][question][answer, eos] ..., as full-context reading meets it; what does not fit is cut."""
    context = encode(tokenizer, records[0].context)
    parts = [(_bos(tokenizer), ''), (context, 'text'), *_questions(records, tokenizer, template, 'text', 'answer')]
    return _row(parts, config.row_length)


def repeat_row(context: str, tokenizer, config: RowsConfig) -> Row:
    """[bos][context][marker][context, eos], the context cut so that both fit."""
    room = (config.row_length - 2 - len(encode(tokenizer, REPEAT))) // 2
    ids = encode(tokenizer, context)[:room]
    return _row([(_bos(tokenizer), ''), (ids, 'text'), *_repeated(tokenizer, ids, 'repeat')], config.row_length)


def copy_row(config: RowsConfig, vocab_size: int, rng: np.random.Generator) -> Row:
    """Random tokens tiled with a random period; targets start with the second period."""
    period = int(rng.integers(2, config.copy_period + 1))
    tokens = np.resize(rng.integers(FIRST_ID, vocab_size, size=period), config.copy_length)
    return Row(tokens.astype(np.int32), {'copy': np.arange(config.copy_length) >= period})


def mixture_weights(surprisal_n: np.ndarray, ratio: int, rng: np.random.Generator) -> np.ndarray:
    """[k, n] weights of the tokens in each slot of `ratio` tokens.

    A token weighs its surprisal times a random factor, so content words stand out; each slot's weights have length 1,
    so that a mixture is about as long as a word embedding.
    """
    n = len(surprisal_n)
    weight_n = surprisal_n * rng.uniform(0.5, 1.0, n)
    weights_kn = np.where(np.arange(n)[None] // ratio == np.arange(-(-n // ratio))[:, None], weight_n[None], 0)
    return (weights_kn / np.linalg.norm(weights_kn, axis=1, keepdims=True)).astype(np.float32)


def _questions(records, tokenizer, template: Template, question_loss: str, answer_loss: str) -> list[Part]:
    parts = []
    for record in records:
        question, answer = encode_question(tokenizer, template, record.prompt, record.answers[0])
        parts += [(question, question_loss), (np.append(answer, np.int32(tokenizer.eos_token_id)), answer_loss)]
    return parts


def _repeated(tokenizer, ids: np.ndarray, loss: str) -> list[Part]:
    return [(encode(tokenizer, REPEAT), ''), (np.append(ids, np.int32(tokenizer.eos_token_id)), loss)]


def _bos(tokenizer) -> np.ndarray:
    return np.array([tokenizer.bos_token_id], np.int32)


def _row(parts: Sequence[Part], length: int) -> Row:
    tokens = np.concatenate([ids for ids, _ in parts])[:length]
    losses = np.concatenate([np.full(len(ids), loss, 'U16') for ids, loss in parts])[:length]
    pad = (0, length - len(tokens))
    return Row(np.pad(tokens, pad), {name: np.pad(losses == name, pad) for name in set(losses) - {''}})


def _stacked(rows: Sequence[Row], losses: tuple[str, ...]) -> dict[str, np.ndarray]:
    nothing = np.zeros(len(rows[0].tokens), bool)
    targets = {name: np.stack([row.targets.get(name, nothing) for row in rows]) for name in losses}
    return {'tokens': np.stack([row.tokens for row in rows])} | targets
