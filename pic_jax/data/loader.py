"""Batches of fixed shapes. What a training step sees is a function of (seed, step) and nothing else."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from pic_jax.config import DataConfig
from pic_jax.data.examples import Example, TokenisedRecord, make_example, question_tokens
from pic_jax.errors import ConfigError, PicJaxError

Batch = dict[str, Any]  # arrays, and groups of them: `Batches` says which
FT_MULTIPLE = 16  # scored questions are padded to a multiple of this


class Batches:
    """Training batches by step: `batches[step]`, in any order, as often as wanted.

    Every epoch draws each record once, in a new order and with new windows; a batch may span two epochs.
    """

    def __init__(
        self,
        records: Sequence[TokenisedRecord],
        cfg: DataConfig,
        objectives: Sequence[str],
        eos_id: int | None,
        batch_size: int,
        seed: int,
        rows: range | None = None,
    ):
        """See `examples.make_example`.

        Args:
          rows: the rows of every batch to draw, where other processes draw the others; all by default. Contexts are
            then padded to the last bucket, since no process knows the longest context of the others.

        Raises:
          PicJaxError: there are no records.
          ConfigError: the seed does not fit 32 bits.
        """
        if not records:
            raise PicJaxError('there are no records to train on')
        if not 0 <= seed < 2**32:
            raise ConfigError(f'seed={seed} is not valid: expected 0 to {2**32 - 1}')
        self._objectives, self._batch_size, self._rows = tuple(objectives), batch_size, rows or range(batch_size)
        self._cfg = cfg if len(self._rows) == batch_size else dataclasses.replace(cfg, buckets=())

        def draw(index: int, rng: np.random.Generator) -> tuple[int, Example]:
            return index, make_example(records[index], cfg, objectives, eos_id, rng)

        order = grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat(None)
        self._examples = order.random_map(draw)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step >= 0.

        Returns:
          `context` [B, S] int32, padded with 0; `context_length` [B] int32; `index` [B] int32, the record's place in
          `records`; and per objective name {`tokens`: [B, T] int32, `is_target`: [B, T] bool}, True where a token
          counts in the loss. S is the smallest of cfg.buckets that holds the longest context of the batch. T is
          cfg.target_length for lm, cfg.answer_length for ft and S + 1 for ae.
        """
        if step < 0:
            raise IndexError(f'step={step} is not valid: expected at least 0')
        first = step * self._batch_size
        drawn = [self._examples[first + row] for row in self._rows]
        return _collate(drawn, self._cfg, self._objectives, len(self._rows))


def eval_batches(
    records: Sequence[TokenisedRecord],
    cfg: DataConfig,
    objectives: Sequence[str],
    eos_id: int | None,
    batch_size: int,
    limit: int,
) -> Iterator[Batch]:
    """The first `limit` records in order, each once, with windows at their start.

    The last batch is filled up with rows of index -1 and context length 1 that have no targets. Keys are those of
    `Batches`, and shapes too, but ft has no more room than the longest of `records` needs (training may pack several
    questions); `other` {`context`, `context_length`} is the context of another document for every row.
    """
    records = records[:limit]
    if 'ft' in objectives:
        longest = max(question_tokens(record, eos_id) for record in records)
        cfg = dataclasses.replace(cfg, answer_length=min(cfg.answer_length, -(-longest // FT_MULTIPLE) * FT_MULTIPLE))
    for first in range(0, len(records), batch_size):
        chosen = range(first, min(first + batch_size, len(records)))
        drawn = [(index, make_example(records[index], cfg, objectives, eos_id, None)) for index in chosen]
        others = [_other_document(records, index) for index in chosen]
        other = [(index, make_example(records[index], cfg, objectives, eos_id, None)) for index in others]
        batch, other_batch = _collate(drawn, cfg, objectives, batch_size), _collate(other, cfg, (), batch_size)
        yield batch | {'other': {name: other_batch[name] for name in ('context', 'context_length')}}


def _other_document(records: Sequence[TokenisedRecord], index: int) -> int:
    """The next record with another context; the record itself where all share one."""
    for step in range(1, len(records)):
        other = (index + step) % len(records)
        if not np.array_equal(records[other].context, records[index].context):
            return other
    return index


def _collate(drawn: list[tuple[int, Example]], cfg: DataConfig, objectives: Sequence[str], batch_size: int) -> Batch:
    longest = max(len(example.context) for _, example in drawn)
    S = next(bucket for bucket in cfg.buckets or (cfg.context_length,) if bucket >= longest)
    context_BS = np.zeros((batch_size, S), np.int32)
    length_B = np.ones(batch_size, np.int32)  # a fill row keeps one position: attention over none is undefined
    index_B = np.full(batch_size, -1, np.int32)
    batch: Batch = {'context': context_BS, 'context_length': length_B, 'index': index_B}
    for name in objectives:
        shape = (batch_size, cfg.text_length(name, S))
        batch[name] = {'tokens': np.zeros(shape, np.int32), 'is_target': np.zeros(shape, bool)}
    for row, (index, example) in enumerate(drawn):
        index_B[row], length_B[row] = index, len(example.context)
        context_BS[row, : length_B[row]] = example.context
        for name in objectives:
            target = example.targets[name]
            batch[name]['tokens'][row, : len(target.tokens)] = target.tokens
            batch[name]['is_target'][row, : len(target.tokens)] = target.is_target
    return batch
