"""Contexts written out again from their memory alone, and how much of each came back."""

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.data.loader import Batch
from pic_jax.data.tokenise import decode
from pic_jax.evaluation.metrics import ROUGE, bleu4, bleu4_resampled, prefix_match, rouge
from pic_jax.models.generation import generate
from pic_jax.models.inputs import DecoderInput, from_memory
from pic_jax.run import Program, Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLEU_RESAMPLES = 200


class Reconstruction(NamedTuple):
    """int32 ids of a `context` [n], and of what the decoder has `written` in its place, [at most n + 1]."""

    context: np.ndarray
    written: np.ndarray


def reconstruct(run: Run, trainable: dict[str, Any], batches: Iterable[Batch]) -> list[Reconstruction]:
    """Greedy continuations of [prefix][memory][AE], without their end token, for the examples in order.

    One that does not end by itself is cut one token past the length of its context. Where a context has end tokens of
    its own (data.pack), as many more end its copy.
    """
    eos_ids = run.decoder.config.eos_token_ids
    found = []
    for batch in batches:
        context_BS, length_B = batch['context'], batch['context_length']
        inputs = _marked_memory(run.program, run.base, trainable, context_BS, length_B)
        budget = run.config.data.text_length('ae', context_BS.shape[1])
        inner_B = (np.isin(context_BS, eos_ids) & (np.arange(context_BS.shape[1]) < length_B[:, None])).sum(axis=1)
        tokens_BT, written_B = generate(run.decoder, run.base, inputs, budget, () if inner_B.any() else eos_ids)
        tokens_BT = np.asarray(tokens_BT)
        if inner_B.any():
            written_B = (np.cumsum(np.isin(tokens_BT, eos_ids), axis=1) <= inner_B[:, None]).sum(axis=1)
        written_B = np.minimum(written_B, length_B + 1)
        found += [
            Reconstruction(context_BS[row, : length_B[row]], tokens_BT[row, : written_B[row]])
            for row in np.flatnonzero(batch['index'] >= 0)
        ]
    return found


def score_reconstructions(
    tokenizer: 'PreTrainedTokenizerBase', reconstructions: Sequence[Reconstruction], times_RN: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    """The metrics of a set of reconstructions.

    Args:
      tokenizer: turns both sides into text for BLEU and ROUGE.
      times_RN: how often each resample has each of the n examples; BLEU takes the first 200 resamples.

    Returns:
      `bleu4` (corpus BLEU of the texts), `prefix_em` (mean share of the context before the first wrong token) and the
      kinds of `ROUGE` (means over texts), each with its value and the values [resamples] of the resampled examples.
    """
    written, contexts = (
        [decode(tokenizer, ids) for ids in column]
        for column in ([r.written for r in reconstructions], [r.context for r in reconstructions])
    )
    overlaps = [rouge(text, [context]) for text, context in zip(written, contexts, strict=True)]
    marks = {'prefix_em': [prefix_match(r.written.tolist(), r.context.tolist()) for r in reconstructions]}
    marks |= {kind: [overlap[kind] for overlap in overlaps] for kind in ROUGE}
    means = {
        metric: (float(np.mean(mark_N)), times_RN @ np.array(mark_N) / times_RN.sum(axis=1))
        for metric, mark_N in marks.items()
    }
    return {'bleu4': (bleu4(written, contexts), bleu4_resampled(written, contexts, times_RN[:BLEU_RESAMPLES]))} | means


@functools.partial(jax.jit, static_argnums=0)
def _marked_memory(program: Program, base, trainable, context_BS, length_B) -> DecoderInput:
    """[prefix][memory][AE] with no text behind it."""
    memory = program.compressor.compress(base, trainable, context_BS, length_B)
    nothing_B0, none_B = jnp.zeros((len(length_B), 0), jnp.int32), jnp.zeros(len(length_B), jnp.int32)
    special_D = trainable['special']['ae']
    return from_memory(program.decoder, base, memory, special_D, program.prefix, nothing_B0, none_B)
