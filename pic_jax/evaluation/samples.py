"""A few answers and reconstructions to look at, with what they should have been."""

from collections.abc import Mapping, Sequence
from typing import Any

from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.tokenise import decode
from pic_jax.evaluation.harness import batches_of, groups_of
from pic_jax.evaluation.metrics import exact_match, f1, prefix_match, solved
from pic_jax.evaluation.reconstruction import reconstruct
from pic_jax.run import Run

NAME = 'samples.json'
COUNT = 8


def collect(
    run: Run,
    trainable: dict[str, Any],
    records: Sequence[TokenisedRecord],
    answers: Mapping[str, Sequence[str]],
    count: int = COUNT,
) -> dict[str, list[dict[str, Any]]]:
    """Samples at even distances over the records, so that they are about several contexts; each is written out once.

    Args:
      records, answers: those that `harness.evaluate` has scored, and its answers.
      count: samples of each kind at the most.

    Returns:
      `answers` and `reconstructions` as docs/FORMATS.md describes them; a list is empty where the run has no such
      objective. The chosen contexts are written out again, in batches of the shape that was scored.
    """
    names = run.config.objective.names
    found: dict[str, list[dict[str, Any]]] = {'answers': [], 'reconstructions': []}
    if 'ft' in names:
        found['answers'] = [_answers(run, records[index], index, answers) for index in _spread(len(records), count)]
    if 'ae' in names:
        first: dict[bytes, TokenisedRecord] = {}
        for context, record in zip(groups_of(records), records, strict=True):
            first.setdefault(context, record)
        chosen = [list(first.values())[index] for index in _spread(len(first), count)]
        found['reconstructions'] = _reconstructions(run, trainable, chosen, len(records))
    return found


def _spread(size: int, count: int) -> list[int]:
    """At most `count` of the numbers below `size`, at even distances."""
    return [index * size // count for index in range(count)] if size > count else list(range(size))


def _answers(run: Run, record: TokenisedRecord, index: int, answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    texts = {method: given[index] for method, given in answers.items()}
    is_right = solved if record.task == 'icl' else exact_match
    return {
        'source': record.source,
        'context': decode(run.tokenizer, record.context),
        'question': record.prompt,
        'golds': list(record.golds),
        'answers': {
            method: {'text': text, 'em': is_right(text, record.golds), 'f1': f1(text, record.golds)}
            for method, text in texts.items()
        },
    }


def _reconstructions(
    run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], limit: int
) -> list[dict[str, Any]]:
    pairs = reconstruct(run, trainable, batches_of(run, records, limit))
    return [
        {
            'source': record.source,
            'context': decode(run.tokenizer, pair.context),
            'written': decode(run.tokenizer, pair.written),
            'prefix_em': prefix_match(pair.written.tolist(), pair.context.tolist()),
        }
        for record, pair in zip(records, pairs, strict=True)
    ]
