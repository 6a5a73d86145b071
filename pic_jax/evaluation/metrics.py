"""Scores of answers and reconstructions. Every score is a fraction of 1, not a percentage."""

import functools
import importlib.metadata
import math
import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from pic_jax.errors import PicJaxError

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_BLEU = BLEU()
ROUGE = ('rouge1', 'rougeL')
_SENTENCE_BLEU = BLEU(effective_order=True)  # asked for counts only; they are the same, and it does not warn


def normalise(text: str) -> str:
    """`text` as the SQuAD v1.1 and MRQA scorers compare it.

    Lower case, ASCII punctuation deleted (not replaced), the words a/an/the dropped, white space collapsed;
    in this order.
    """
    bare = text.lower().translate(_PUNCTUATION)
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', bare).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the gold answers after `normalise`, else 0.0.

    Raises:
      PicJaxError: no gold answer, or a plain string in place of a list of them.
    """
    return max(float(normalise(prediction) == normalise(gold)) for gold in _checked(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Best F1 over the gold answers of the overlap of normalised words, counted with multiplicity.

    As in SQuAD v1.1, an answer without words scores 0 against any gold, an empty one included.

    Raises:
      PicJaxError: no gold answer, or a plain string in place of a list of them.
    """
    return max(_f1(normalise(prediction).split(), normalise(gold).split()) for gold in _checked(golds))


def _f1(prediction: list[str], gold: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * shared / (len(prediction) + len(gold)) if shared else 0.0


def solved(prediction: str, golds: Sequence[str]) -> float:
    """`exact_match` of the final answers: what follows the last `####`, which ends a worked solution in GSM8K.

    Text without that mark is a final answer as it is, so a label is right where it is an exact match.

    Raises:
      PicJaxError: no gold answer, or a plain string in place of a list of them.
    """
    return exact_match(_final(prediction), [_final(gold) for gold in _checked(golds)])


def _final(text: str) -> str:
    return text.rpartition('####')[2]


def _checked(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str) or not golds:
        raise PicJaxError(f'golds={golds!r} is not valid: expected a list of at least one answer')
    return golds


def prefix_match(prediction_ids: Sequence[int], target_ids: Sequence[int]) -> float:
    """Length of the common prefix over the length of the target: ICAE's EM (arXiv 2307.06945, section 3).

    Raises:
      PicJaxError: the target is empty.
    """
    if len(target_ids) == 0:
        raise PicJaxError('target_ids=[] is not valid: expected at least one token')
    pairs = zip(prediction_ids, target_ids, strict=False)
    length = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(prediction_ids), len(target_ids)))
    return length / len(target_ids)


def bleu4(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Corpus BLEU-4 of one target for each prediction, by sacrebleu with its defaults (`bleu_signature`)."""
    return _BLEU.corpus_score(list(predictions), [list(targets)]).score / 100


def bleu_signature() -> str:
    """What sacrebleu asks to be quoted with a BLEU: its settings and version."""
    _BLEU.corpus_score([''], [['']])  # it wants to have seen the number of targets
    return str(_BLEU.get_signature())


def bleu4_resampled(predictions: Sequence[str], targets: Sequence[str], times_RN: np.ndarray) -> np.ndarray:
    """`bleu4` of resampled corpora, from the counts of each sentence.

    Args:
      times_RN: how often each resampled corpus has each of the n predictions (`resamples`).

    Returns:
      [resamples] float64.
    """
    sentences = [_SENTENCE_BLEU.sentence_score(text, [gold]) for text, gold in zip(predictions, targets, strict=True)]
    counts_NC = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in sentences])
    sums = (times_RN @ counts_NC).astype(int).tolist()
    return np.array([BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], 'exp').score / 100 for row in sums])


def rouge(prediction: str, golds: Sequence[str]) -> dict[str, float]:
    """F-measure of every kind of `ROUGE`, each the best over the gold answers, by rouge-score (`rouge_signature`).

    Its words are runs of a-z and 0-9 after lower-casing: other letters are not seen, and text without any scores 0.

    Raises:
      PicJaxError: no gold answer, or a plain string in place of a list of them.
    """
    return {kind: score.fmeasure for kind, score in _rouge_scorer().score_multi(_checked(golds), prediction).items()}


def rouge_signature() -> str:
    """The settings and version behind a ROUGE, in the manner of `bleu_signature`."""
    version = importlib.metadata.version('rouge-score')
    return f'{"+".join(ROUGE)}|score:f|golds:best|stemmer:no|tok:default|version:{version}'


@functools.cache
def _rouge_scorer():
    from rouge_score.rouge_scorer import RougeScorer  # not above: it imports nltk, which takes a second or two

    return RougeScorer(list(ROUGE), use_stemmer=False)


def resamples(groups: Sequence[Hashable], seed: int, count: int = 1000) -> np.ndarray:
    """Bootstrap samples of examples that come in groups, as questions on one document do: groups are drawn.

    Examples of a group rise and fall together, so drawing them one by one would make intervals too narrow.

    Args:
      groups: the group of each of the n examples. seed: the same seed draws the same samples.

    Returns:
      [count, n] float64: how many times each sample has each example. A sample draws as many groups as there are.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    drawn_RG = np.random.default_rng(seed).integers(len(numbers), size=(count, len(numbers)))
    times_RG = np.stack([np.bincount(row, minlength=len(numbers)) for row in drawn_RG])
    return times_RG[:, [numbers[group] for group in groups]].astype(np.float64)


def bootstrap_interval(
    values: Sequence[float], seed: int, groups: Sequence[Hashable] | None = None, count: int = 1000
) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean.

    Args:
      values: one finite score per example.
      seed, groups, count: of `resamples`; by default each example is a group.

    Returns:
      The 2.5th and 97.5th percentile of the resampled means.

    Raises:
      PicJaxError: no value, or one that is not finite.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.size == 0 or not np.isfinite(values_N).all():
        raise PicJaxError(f'values={list(values)[:8]!r} is not valid: expected at least one number, all finite')
    times_RN = resamples(range(len(values_N)) if groups is None else groups, seed, count)
    low, high = np.percentile(times_RN @ values_N / times_RN.sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def gap_share(no_context: float, full_context: float, method: float) -> float:
    """Share of the gap between no context and full context that a method closes; all three in nats per token.

    Returns:
      1.0 where the method is as good as the full context, 0.0 where it is no better than no context,
      and nan where the full context does not help, so that there is no gap to share.
    """
    gap = no_context - full_context
    return (no_context - method) / gap if gap > 0 else math.nan
