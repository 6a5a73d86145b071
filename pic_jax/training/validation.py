"""What a compressor's validation measures."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.loader import Batch
from pic_jax.evaluation.harness import Scores, batches_of, methods_of, score
from pic_jax.evaluation.metrics import gap_share
from pic_jax.models.scoring import Totals
from pic_jax.nested import trainable_at
from pic_jax.run import Run
from pic_jax.training.objectives import words_totals
from pic_jax.training.writers import Record


def make_validation(run: Run, records: Sequence[TokenisedRecord]) -> Callable[[Any], Record]:
    """A function from trainable parameters to the fields of a validation record.

    Fields: `loss` (weighted as in training, without distill), `<objective>_nats`, `<objective>_exact` (share of
    examples whose every target token is the first choice where the right text precedes), nats with `_<control>` for
    every control, and `<objective>_gap_share` = (no_context - method) / (no_context - full_context). Controls that
    do not depend on the compressor are scored once. `words_distance` is the loss `words` per vector. All are of the
    finest ratio; a nested compressor adds `<objective>_nats_<ratio>x` for each of the others.
    """
    method, *controls = methods_of(run)
    # Spread over the split: its first examples may all be questions on a few documents.
    limit = min(run.config.train.eval_examples, len(records))
    records = [records[index * len(records) // limit] for index in range(limit)]
    shares = {name: getattr(run.config.objective, name) for name in run.config.objective.names}
    fixed: dict[str, Scores] = {}

    @jax.jit
    def distances(trainable: Any, batch: Batch) -> Totals:
        memory = run.compressor.compress(run.base, trainable, batch['context'], batch['context_length'])
        totals = words_totals(run, run.base, memory, batch['context'], batch['context_length'])
        return jax.tree.map(lambda x: jnp.where(batch['index'] >= 0, x, 0), totals)

    def validate(trainable: Any) -> Record:
        if not fixed:
            names = [name for name in controls if name != 'shuffled_memory']
            fixed.update(score(run, trainable, records, names, limit))
        scores = fixed | score(run, trainable, records, (method, 'shuffled_memory'), limit)
        record = {'loss': sum(weight * scores[method].per_token(name) for name, weight in shares.items())}
        if run.config.objective.words:
            parts = [distances(trainable, batch) for batch in batches_of(run, records, limit)]
            record['words_distance'] = float(
                sum(part.nats.sum() for part in parts) / sum(part.tokens.sum() for part in parts)
            )
            record['loss'] += run.config.objective.words * record['words_distance']
        for name in shares:
            nats = {other: scores[other].per_token(name) for other in (method, *controls)}
            record[f'{name}_nats'] = nats.pop(method)
            record[f'{name}_exact'] = scores[method].exact(name)
            record |= {f'{name}_nats_{other}': value for other, value in nats.items()}
            if 'full_context' in nats and name != 'ae':
                share = gap_share(nats['no_context'], nats['full_context'], record[f'{name}_nats'])
                record |= {f'{name}_gap_share': share} if np.isfinite(share) else {}
        return record | nats_at_coarser_ratios(run, trainable, records)

    return validate


def nats_at_coarser_ratios(run: Run, trainable: Any, records: Sequence[TokenisedRecord]) -> Record:
    """`<objective>_nats_<ratio>x` of a nested compressor, for every ratio but its finest."""
    compressor = run.config.compressor
    record: Record = {}
    for ratio in compressor.ratios[1:]:
        weights, view = trainable_at(compressor, trainable, ratio), run.at_ratio(ratio)
        scores = score(view, weights, records, (compressor.method,), len(records))[compressor.method]
        record |= {f'{name}_nats_{ratio}x': scores.per_token(name) for name in run.config.objective.names}
    return record
