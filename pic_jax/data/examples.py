"""Records become token arrays once, and examples (a window and its targets) every time they are drawn."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pic_jax.config import DataConfig
from pic_jax.data.packing import pack
from pic_jax.data.records import Record
from pic_jax.data.tokenise import Template, encode, encode_question
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.tensors import check_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOTHING = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class TokenisedRecord:
    """A record as int32 ids: `context` [n], `question` (template and prompt) and `answer`, empty for plain text.

    `place` and `task` are the record's. `more` holds further (question, answer) pairs on its context, see `packed`.
    """

    context: np.ndarray
    question: np.ndarray
    answer: np.ndarray
    prompt: str | None
    golds: tuple[str, ...]
    source: str
    place: float | None = None
    more: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    task: str = 'qa'


@dataclasses.dataclass(frozen=True)
class Target:
    """What an objective predicts: int32 `tokens` [t], and which of them count in the loss, bool [t]."""

    tokens: np.ndarray
    is_target: np.ndarray


@dataclasses.dataclass(frozen=True)
class Example:
    """A window: int32 `context` [n], n >= 1, and a `Target` per objective name."""

    context: np.ndarray
    targets: dict[str, Target]


def tokenise_records(
    records: Sequence[Record],
    tokenizer: 'PreTrainedTokenizerBase',
    template: Template,
    cfg: DataConfig,
    objectives: Sequence[str],
    eos_id: int | None,
    vocab_size: int,
) -> tuple[Sequence[TokenisedRecord], int]:
    """Encodes records and refuses those that the objectives cannot use, before any training starts.

    With cfg.pack, documents are joined first, and what is too short then is left out.

    Args:
      records: of one split.
      tokenizer: its ids are used without special tokens.
      template: put around prompts.
      cfg: lengths, in tokens.
      objectives: names out of ae, lm, ft.
      eos_id: ends an answer; counts in cfg.answer_length.
      vocab_size: of the model that reads the ids.

    Returns:
      The records kept, and how many documents were too short to leave cfg.min_context tokens of context.

    Raises:
      ConfigError: an objective has no data in a record, or cfg.pack meets a question.
      PicJaxError: a question's context or its prompt and answer are too long, every document is too short, or the
        tokenizer gives an id that the model has not.
    """
    encoded: dict[str, np.ndarray] = {}
    found: list[TokenisedRecord] = []
    least = cfg.min_context + reserved_tokens(cfg, objectives)
    for record in records:
        _check_objectives(record, objectives)
        if cfg.pack and record.prompt is not None:
            raise ConfigError(
                f'data.pack=True is not valid: expected False, since {record.source} is a question about one context'
            )
        if record.context not in encoded:
            encoded[record.context] = encode(tokenizer, record.context)
            check_ids(encoded[record.context], vocab_size, f'{record.source}: ')
        question, answer = _NOTHING, _NOTHING
        if record.prompt is not None:
            question, answer = encode_question(tokenizer, template, record.prompt, record.answers[0])
            check_ids(np.concatenate([question, answer]), vocab_size, f'{record.source}: ')
        tokenised = TokenisedRecord(
            encoded[record.context], question, answer, record.prompt, record.answers, record.source, record.place,
            task=record.task,
        )  # fmt: skip
        if record.prompt is not None:
            _check_lengths(tokenised, cfg, objectives, eos_id)
        found.append(tokenised)
    kept: Sequence[TokenisedRecord]
    if cfg.pack:
        lengths = np.array([len(record.context) for record in found], np.int64)
        kept = pack(found, lengths, row_length(cfg, objectives), least, tokenizer.eos_token_id)
        used = kept.num_documents
    else:
        kept = [record for record in found if record.prompt is not None or len(record.context) >= least]
        used = len(kept)
    if records and not kept:
        raise too_short(len(records), records[0].source, cfg, objectives)
    return kept, len(records) - used


def too_short(count: int, first: str, cfg: DataConfig, objectives: Sequence[str]) -> PicJaxError:
    """The error for a source whose documents all leave less than cfg.min_context; `first` names one of them."""
    even = ', even joined by data.pack' if cfg.pack else ''
    return PicJaxError(
        f'all {count} documents are too short{even} (the first is {first}): expected at least '
        f'{cfg.min_context + reserved_tokens(cfg, objectives)} tokens (data.min_context and the target of objective.lm)'
    )


def make_example(
    record: TokenisedRecord,
    cfg: DataConfig,
    objectives: Sequence[str],
    eos_id: int | None,
    rng: np.random.Generator | None,
) -> Example:
    """Cuts a window out of a record and builds its targets.

    A document longer than the window is cut at its start, or anywhere where cfg.random_start is set and `rng` given.
    Where it is shorter, the continuation of `lm` keeps its length and the context is what comes before.

    Args:
      record: as `tokenise_records` lets it through.
      cfg: lengths, in tokens.
      objectives: names out of ae, lm, ft.
      eos_id: ends the targets of ae and ft; None leaves it out.
      rng: draws the start of the window in training; None in evaluation.
    """
    reserved, length = reserved_tokens(cfg, objectives), context_tokens(record, cfg, objectives)
    start = 0
    if rng is not None and cfg.random_start:
        start = int(rng.integers(len(record.context) - reserved - length + 1))
    context = record.context[start : start + length]
    eos = _NOTHING if eos_id is None else np.array([eos_id], np.int32)
    targets = {}
    if 'ae' in objectives:
        targets['ae'] = _all_scored(np.concatenate([context, eos]))
    if 'lm' in objectives:
        targets['lm'] = _all_scored(record.context[start + length : start + length + cfg.target_length])
    if 'ft' in objectives:
        targets['ft'] = _answers(record, eos)
    return Example(context, targets)


def packed(records: Sequence[TokenisedRecord], cfg: DataConfig, eos_id: int | None) -> Sequence[TokenisedRecord]:
    """Up to cfg.questions_per_example questions on one context become one record: one compression, many answers.

    They are asked one after the other, as far as cfg.answer_length reaches; each is a pair with its own end token.
    """
    if cfg.questions_per_example == 1:
        return records  # unread: they may be on disk
    results: list[TokenisedRecord] = []
    room = 0
    for record in records:
        length = question_tokens(record, eos_id)
        last = results[-1] if results else None
        if (
            last is not None
            and last.context is record.context
            and len(last.more) + 1 < cfg.questions_per_example
            and length <= room
        ):
            results[-1] = dataclasses.replace(last, more=(*last.more, (record.question, record.answer)))
            room -= length
        else:
            results.append(record)
            room = cfg.answer_length - length
    return results


def question_tokens(record: TokenisedRecord, eos_id: int | None) -> int:
    """Tokens of a record's questions, answers and end tokens."""
    pairs = (record.question, record.answer), *record.more
    return sum(len(question) + len(answer) + (eos_id is not None) for question, answer in pairs)


def _all_scored(tokens: np.ndarray) -> Target:
    return Target(tokens, np.ones(len(tokens), bool))


def _answers(record: TokenisedRecord, eos: np.ndarray) -> Target:
    tokens, is_target = [], []
    for question, answer in ((record.question, record.answer), *record.more):
        tokens += [question, answer, eos]
        is_target += [np.zeros(len(question), bool), np.ones(len(answer) + len(eos), bool)]
    return Target(np.concatenate(tokens), np.concatenate(is_target))


def context_tokens(record: TokenisedRecord, cfg: DataConfig, objectives: Sequence[str]) -> int:
    """Tokens of context in an example of the record."""
    return min(cfg.context_length, len(record.context) - reserved_tokens(cfg, objectives))


def reserved_tokens(cfg: DataConfig, objectives: Sequence[str]) -> int:
    """Tokens that must follow the context."""
    return cfg.target_length if 'lm' in objectives else 0


def row_length(cfg: DataConfig, objectives: Sequence[str]) -> int:
    """Tokens of context and target together at the most, which cfg.pack fills."""
    return cfg.context_length + reserved_tokens(cfg, objectives)


def _check_objectives(record: Record, objectives: Sequence[str]) -> None:
    if 'lm' in objectives and record.prompt is not None:
        raise ConfigError(
            f'objective.lm has no data: {record.source} is a question, expected a document (text); '
            'set objective.lm=0 to train on questions'
        )
    if 'ft' in objectives and record.prompt is None:
        raise ConfigError(
            f'objective.ft has no data: {record.source} is a document, expected context, prompt and answers'
        )


def _check_lengths(record: TokenisedRecord, cfg: DataConfig, objectives: Sequence[str], eos_id: int | None) -> None:
    if not 1 <= len(record.context) <= cfg.context_length:
        raise PicJaxError(
            f'{record.source}: the context has {len(record.context)} tokens, expected 1 to '
            f'data.context_length={cfg.context_length} (cutting it could lose the answer)'
        )
    length = question_tokens(record, eos_id)
    if 'ft' in objectives and length > cfg.answer_length:
        raise PicJaxError(
            f'{record.source}: template, prompt and answer have {length} tokens, expected at most '
            f'data.answer_length={cfg.answer_length}'
        )
