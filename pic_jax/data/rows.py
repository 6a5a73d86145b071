"""Rows for pretraining a target: documents with questions and answers, and random tokens to copy."""

from collections.abc import Sequence

import numpy as np

from pic_jax.data.records import Record
from pic_jax.data.tokenise import Template, encode, encode_question

Row = tuple[np.ndarray, np.ndarray, np.ndarray]


def document_rows(records: Sequence[Record], tokenizer, template: Template, length: int) -> list[Row]:
    """One row per document: [bos][context][question][answer, eos] ..., as full-context reading meets it.

    Returns:
      (tokens int32 [length], is_text bool [length], is_answer bool [length]) with 0-padding; the first token is
      no target. What does not fit in `length` is cut.
    """
    rows, groups = [], {}
    for record in records:
        groups.setdefault(record.context, []).append(record)
    for context, questions in groups.items():
        parts = [(np.array([tokenizer.bos_token_id], np.int32), False), (encode(tokenizer, context), False)]
        for record in questions:
            question, answer = encode_question(tokenizer, template, record.prompt, record.answers[0])
            parts += [(question, False), (np.append(answer, np.int32(tokenizer.eos_token_id)), True)]
        tokens = np.concatenate([ids for ids, _ in parts])[:length]
        is_answer = np.concatenate([np.full(len(ids), flag) for ids, flag in parts])[:length]
        pad = (0, length - len(tokens))
        is_text = np.pad(~is_answer, pad)
        is_text[0] = False
        rows.append((np.pad(tokens, pad), is_text, np.pad(is_answer, pad)))
    return rows


class RowBatches:
    """Pretraining batches by step, a pure function of (seed, step)."""

    def __init__(self, rows: Sequence[Row], batch_size: int, copy_shape: tuple[int, int], vocab_size: int, seed: int):
        self._columns = [np.stack(column) for column in zip(*rows, strict=True)]
        self._batch_size, self._copy_shape, self._vocab_size, self._seed = batch_size, copy_shape, vocab_size, seed

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """{'document': {tokens, is_text, is_answer} [B, T], 'copy': {tokens, is_target} [C, U]}, (C, U) = copy_shape.

        A copy row is random tokens tiled with a period of 4 to U / 2; its targets start with the second period.
        """
        rng = np.random.default_rng((self._seed, step))
        tokens_NT, is_text_NT, is_answer_NT = self._columns
        picks = rng.integers(len(tokens_NT), size=self._batch_size)
        document = {'tokens': tokens_NT[picks], 'is_text': is_text_NT[picks], 'is_answer': is_answer_NT[picks]}
        C, U = self._copy_shape
        copy_CU, is_target_CU = np.zeros((C, U), np.int32), np.zeros((C, U), bool)
        for row in range(C):
            period = int(rng.integers(4, U // 2))
            copy_CU[row] = np.resize(rng.integers(2, self._vocab_size, size=period), U)
            is_target_CU[row, period:] = True
        return {'document': document, 'copy': {'tokens': copy_CU, 'is_target': is_target_CU}}
