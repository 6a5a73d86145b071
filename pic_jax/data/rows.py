"""Rows for pretraining a target: generated documents to read, repeat and unpack, and random tokens to copy.

Mixture rows have vectors that are weighted sums of word embeddings in the context's place: a context of its own kind,
made without any compressor. The target learns to take such vectors apart, which is what it will be asked to do later.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pic_jax.config import CorpusConfig, RowsConfig
from pic_jax.data import generator
from pic_jax.data.records import Record
from pic_jax.data.tokenise import Template, encode, encode_question

REPEAT = '\nRepeat the text:\n'
FIRST_ID = 2  # random tokens leave out <s> and </s>
TELLING = 48  # tokens in which a sentence tells its facts, at the most
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
          of kind `document`; `mixture_answer` (notes) and `mixture_text` of kind `mixture`; `copy`. The tokens of
          a `mixture` row stand behind the memory, which comes with `context` int32 [B, S], `weights` float32
          [B, K, S] (slot by context token), `slots` int32 [B], how many are used, and `stride` int32 [B], the
          position ids from one to the next.
        """
        config, rng = self._config, np.random.default_rng((self._seed, step))
        per_step = config.documents + config.repeats + config.notes + config.mixtures
        numbers = iter(range(step * per_step, (step + 1) * per_step))

        def draw() -> list[Record]:
            return generator.document(self._corpus, self._split, self._seed, next(numbers))

        batch = {}
        if config.documents + config.repeats:
            rows = [document_row(draw(), self._tokenizer, self._template, config) for _ in range(config.documents)]
            rows += [repeat_row(draw()[0].context, self._tokenizer, config) for _ in range(config.repeats)]
            batch['document'] = _stacked(rows, ('text', 'answer', 'repeat'))
        if config.notes + config.mixtures:
            batch['mixture'] = self._mixtures([draw() for _ in range(config.notes + config.mixtures)], rng)
        if config.copies:
            batch['copy'] = _stacked(
                [copy_row(config, len(self._surprisal_V), rng) for _ in range(config.copies)], ('copy',)
            )
        return batch

    def _mixtures(self, documents: list[list[Record]], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first `notes` documents are asked about, the others repeated."""
        config, tokenizer = self._config, self._tokenizer
        ratios = rng.choice(config.mixture_ratios, len(documents))
        contexts = [
            encode(tokenizer, records[0].context)[: config.mixture_slots * ratio]
            for records, ratio in zip(documents, ratios, strict=True)
        ]
        S = -(-max(map(len, contexts)) // 64) * 64  # few shapes
        memory = {
            'context': np.zeros((len(documents), S), np.int32),
            'weights': np.zeros((len(documents), config.mixture_slots, S), np.float32),
            'slots': np.array([-(-len(context) // ratio) for context, ratio in zip(contexts, ratios, strict=True)]),
            'stride': np.where(rng.random(len(documents)) < 0.5, 1, ratios),
        }
        rows = []
        for row, (context, records, ratio) in enumerate(zip(contexts, documents, ratios, strict=True)):
            told, parts = [], _repeated(tokenizer, context, 'mixture_text')
            if row < config.notes:
                parts = _questions(records, tokenizer, self._template, '', 'mixture_answer')
                told = told_in(records, context, tokenizer, self._template)
            weights = mixture_weights(self._surprisal_V[context], ratio, told, rng)
            memory['weights'][row, : len(weights), : len(context)] = weights
            memory['context'][row, : len(context)] = context
            rows.append(_row(parts, config.text_length))
        memory |= {name: memory[name].astype(np.int32) for name in ('slots', 'stride')}
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


def mixture_weights(
    surprisal_n: np.ndarray, ratio: int, told: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """[k, n] weights of the tokens in each slot of `ratio` tokens.

    A token weighs its surprisal times a random factor, so content words stand out; each slot's weights have length 1,
    so that a mixture is about as long as a word embedding.

    Args:
      told: token numbers that belong together. They all go to the slot of the last one, or, at random for all of the
        text, to the nearest slot that has no others yet; the rest of the text fades behind them.
    """
    n = len(surprisal_n)
    weight_n = surprisal_n * rng.uniform(0.5, 1.0, n)
    weights_kn = np.where(np.arange(n)[None] // ratio == np.arange(-(-n // ratio))[:, None], weight_n[None], 0)
    if told:
        weights_kn *= rng.uniform(0.05, 0.5)
    apart, free = rng.random() < 0.5, set(range(len(weights_kn)))
    for own in told:
        slot = own[-1] // ratio
        if apart and free:
            _, slot = min((abs(other - slot), other) for other in free)
            free.remove(slot)
        weights_kn[slot, own] = weight_n[own]
    return (weights_kn / np.linalg.norm(weights_kn, axis=1, keepdims=True)).astype(np.float32)


def told_in(records: Sequence[Record], context: np.ndarray, tokenizer, template: Template) -> list[np.ndarray]:
    """Per record whose answer has a place, the numbers of the tokens that tell it: those of its question and answer.

    The telling ends with the answer; one that a cut context no longer has is left out.
    """
    told = []
    for record in records:
        if record.place is None or record.prompt is None:
            continue
        # Without the space before the sentence: it belongs to the sentence's first token.
        start = len(encode(tokenizer, record.context[: round(record.place * len(record.context))].rstrip(' ')))
        question, answer = encode_question(tokenizer, template, record.prompt, record.answers[0])
        here = context[start : start + TELLING]
        ends = np.flatnonzero(here == answer[-1])
        if len(ends):
            told.append(start + np.flatnonzero(np.isin(here[: ends[0] + 1], np.append(question, answer))))
    return told


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
