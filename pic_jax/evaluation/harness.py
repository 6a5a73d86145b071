"""Scores a compressor and its controls on held-out examples, through the frozen decoder."""

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pic_jax.data.examples import TokenisedRecord, context_tokens
from pic_jax.data.loader import Batch, eval_batches
from pic_jax.data.prepare import prepare
from pic_jax.data.records import QUESTION_TASKS
from pic_jax.data.tokenise import decode
from pic_jax.errors import PicJaxError
from pic_jax.evaluation.controls import CONTROLS, View, control_view
from pic_jax.evaluation.metrics import ROUGE, bootstrap_interval, exact_match, f1, gap_share, resamples, rouge, solved
from pic_jax.evaluation.reconstruction import reconstruct, score_reconstructions
from pic_jax.models.generation import generate
from pic_jax.models.inputs import from_memory
from pic_jax.models.partitioning import replicated
from pic_jax.models.scoring import hits, nll, text_logits
from pic_jax.run import Program, Run, full_context_fits

TASKS = {'ae': ('reconstruction',), 'lm': ('continuation',), 'ft': QUESTION_TASKS}
SHORTEST_ANSWER_BUDGET = 32  # tokens


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell of a result table: the mean of `metric` over `n` examples with a 95% bootstrap interval."""

    method: str
    ratio: float
    k: float
    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Scores:
    """Per example: nats, target tokens and how many of them are the decoder's first choice, each [n] per objective;
    and k [n], the vectors the decoder read."""

    nats: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]
    hits: dict[str, np.ndarray]
    k: np.ndarray

    def taken(self, places: Sequence[int]) -> 'Scores':
        """Those of the examples at `places`."""
        return Scores(**jax.tree.map(lambda column_N: column_N[np.asarray(places)], vars(self)))

    def per_token(self, objective: str) -> float:
        """Mean nats per target token over all examples."""
        return float(self.nats[objective].sum() / self.tokens[objective].sum())

    def accuracy(self, objective: str) -> float:
        """Share of the target tokens of all examples that are the first choice where the right text precedes."""
        return float(self.hits[objective].sum() / self.tokens[objective].sum())

    def exact(self, objective: str) -> float:
        """Share of the examples whose every target token is the first choice where the right text precedes."""
        return float(np.mean(self.hits[objective] == self.tokens[objective]))

    def resampled(self, objective: str, times_RN: np.ndarray) -> np.ndarray:
        """`per_token` of each resample (`metrics.resamples`)."""
        return (times_RN @ self.nats[objective]) / (times_RN @ self.tokens[objective])

    def resampled_accuracy(self, objective: str, times_RN: np.ndarray) -> np.ndarray:
        """`accuracy` of each resample."""
        return (times_RN @ self.hits[objective]) / (times_RN @ self.tokens[objective])


def held_out(run: Run, split: str) -> Sequence[TokenisedRecord]:
    """The records of one split of the run's data.

    Raises:
      PicJaxError: there are none.
    """
    config = run.config
    names = config.objective.names
    records = prepare(config.data, names, run.tokenizer, run.template, run.eos_id, run.vocab_size, (split,))[0][split]
    if not records:
        raise PicJaxError(f'data.{split}=0 leaves no examples to score on: expected a positive number')
    return records


def methods_of(run: Run) -> tuple[str, ...]:
    """The method and the controls that fit the decoder; full_context needs positions for every word."""
    controls = tuple(name for name in CONTROLS if name != 'full_context' or full_context_fits(run))
    return (run.config.compressor.method, *controls)


def score(
    run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], methods: Sequence[str], limit: int
) -> dict[str, Scores]:
    """Likelihood of every target under each method; exact on a ragged last batch."""
    columns: dict[str, list] = {name: [] for name in methods}
    for batch in batches_of(run, records, limit):
        real = batch['index'] >= 0
        for name, scored in _score_batch(run.program, tuple(methods), run.base, trainable, batch).items():
            columns[name].append(jax.tree.map(lambda x, real=real: np.asarray(x)[real], scored))
    scores = {}
    for name, parts in columns.items():
        totals, hit, k = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        scores[name] = Scores(
            {objective: total.nats for objective, total in totals.items()},
            {objective: total.tokens for objective, total in totals.items()},
            hit,
            k,
        )
    return scores


def answer(
    run: Run, trainable: dict[str, Any], records: Sequence[TokenisedRecord], method: str, limit: int
) -> list[str]:
    """Greedy answers to the records' questions, in order."""
    answers = []
    for batch in batches_of(run, records, limit):
        chosen = [records[index] for index in batch['index'] if index >= 0]
        lengths_B = np.ones(len(batch['index']), np.int32)
        lengths_B[: len(chosen)] = [len(record.question) for record in chosen]
        question_BT = np.where(np.arange(batch['ft']['tokens'].shape[1])[None] < lengths_B[:, None],
                               batch['ft']['tokens'], 0)  # fmt: skip
        inputs = _answer_inputs(run.program, method, run.base, trainable, batch, question_BT, lengths_B)
        tokens_BT, answer_lengths_B = generate(
            run.decoder, run.base, inputs, _answer_budget(run, records[:limit]), run.decoder.config.eos_token_ids
        )
        for row in range(len(chosen)):
            ids = np.asarray(tokens_BT[row, : answer_lengths_B[row]])
            answers.append(decode(run.tokenizer, ids).strip())
    return answers


def evaluate(
    run: Run,
    trainable: dict[str, Any],
    records: Sequence[TokenisedRecord],
    limit: int,
    methods: Sequence[str] | None = None,
    known: Mapping[str, Scores] = types.MappingProxyType({}),
) -> tuple[list[Row], dict[str, list[str]]]:
    """The whole table: nats per token and share of the gap for every task.

    For questions also EM, F1 and ROUGE, and EM by the quarter of the context in which the answer is told; those whose
    context shows by examples how to answer are a task of their own, with its accuracy. For reconstruction also the
    accuracy of tokens that follow the right text, and, for the method alone, scores of what it writes itself.
    Intervals are bootstraps over contexts, each with all of its questions.

    Args:
      methods: those to score; by default `methods_of(run)`. Shares of the gap need full_context and no_context.
      known: scores that need not be computed, of methods on the same records. Those of further methods, beside
        `methods`, get no rows.

    Returns:
      the rows, and each method's answers where the run has questions.
    """
    methods, names, records = methods or methods_of(run), run.config.objective.names, records[:limit]
    missing = [name for name in methods if name not in known]
    found = {**known, **score(run, trainable, records, missing, limit)}
    scores = {name: found[name] for name in (*methods, *known)}
    answers = {name: answer(run, trainable, records, name, limit) for name in methods} if 'ft' in names else {}
    rows = []
    for task, objective, chosen in _tasks(records, names):
        asked = [records[place] for place in chosen]
        length = float(np.mean([context_tokens(record, run.config.data, names) for record in asked]))
        part = Part(task, objective, asked, {name: score.taken(chosen) for name, score in scores.items()}, length)
        # The same resampled examples for every method, so that shares of the gap are resampled in pairs.
        times_RN = resamples(groups_of(asked), run.config.seed)
        rows += [row for row in _likelihood_rows(part, times_RN) if row.method in methods]
        if objective == 'ae':
            written = reconstruct(run, trainable, batches_of(run, records, limit))
            for metric, (value, drawn) in score_reconstructions(run.tokenizer, written, times_RN).items():
                rows.append(part.row(run.config.compressor.method, metric, value, _interval(drawn)))
        elif objective == 'ft':
            for name, texts in answers.items():
                rows += _answer_rows(part, name, [texts[place] for place in chosen], run.config.seed)
    return rows, answers


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples of one task, `scores` by method, and `length`, the mean tokens of their contexts."""

    task: str
    objective: str
    records: Sequence[TokenisedRecord]
    scores: dict[str, Scores]
    length: float

    def row(self, method: str, metric: str, value: float, interval: tuple[float, float]) -> Row:
        """A row over all of the examples."""
        k = float(self.scores[method].k.mean())
        ratio = self.length / k if k else float('inf')
        return Row(method, ratio, k, self.task, metric, value, *interval, n=len(self.records))


def _tasks(records: Sequence[TokenisedRecord], names: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """(task, the objective that scores it, places of its examples among the records) of every task that has some."""
    for objective in names:
        for task in TASKS[objective]:
            is_in = [objective != 'ft' or record.task == task for record in records]
            if any(is_in):
                yield task, objective, [place for place, chosen in enumerate(is_in) if chosen]


def _likelihood_rows(part: Part, times_RN: np.ndarray) -> Iterator[Row]:
    """Nats per token and, where both ends are there, share of the gap; for reconstruction the accuracy of tokens."""
    objective, methods = part.objective, part.scores
    value = {method: scores.per_token(objective) for method, scores in methods.items()}
    drawn = {method: scores.resampled(objective, times_RN) for method, scores in methods.items()}
    for method in methods:
        yield part.row(method, 'nats_per_token', value[method], _interval(drawn[method]))
    if objective == 'ae':
        for method, scores in methods.items():
            interval = _interval(scores.resampled_accuracy('ae', times_RN))
            yield part.row(method, 'token_accuracy', scores.accuracy('ae'), interval)
    elif {'full_context', 'no_context'} <= set(methods):
        for method in methods:
            share = gap_share(value['no_context'], value['full_context'], value[method])
            columns = drawn['no_context'], drawn['full_context'], drawn[method]
            shares = np.array([gap_share(*row) for row in zip(*columns, strict=True)])
            yield part.row(method, 'gap_share', share, _interval(shares))


def _answer_rows(part: Part, method: str, texts: Sequence[str], seed: int) -> Iterator[Row]:
    """Means of the marks of a method's answers, over all of them and, for exact match, by quarter of the context."""
    for metric, marks in _marks(part.task, part.records, texts).items():
        interval = bootstrap_interval(marks, seed, groups_of(part.records))
        yield part.row(method, metric, float(np.mean(marks)), interval)
    if part.task != 'qa':
        return
    for quarter in range(4):
        told = [place for place, record in enumerate(part.records) if _quarter(record.place) == quarter]
        if told:
            records = [part.records[place] for place in told]
            marks = [exact_match(texts[place], part.records[place].golds) for place in told]
            interval = bootstrap_interval(marks, seed, groups_of(records))
            row = part.row(method, f'em_q{quarter + 1}', float(np.mean(marks)), interval)
            yield dataclasses.replace(row, task='qa_by_position', n=len(told))


def _marks(task: str, records: Sequence[TokenisedRecord], texts: Sequence[str]) -> dict[str, list[float]]:
    """Marks of the answers to questions of one task, by metric."""
    pairs = [(text, record.golds) for text, record in zip(texts, records, strict=True)]
    if task == 'icl':
        return {'accuracy': [solved(*pair) for pair in pairs]}
    overlaps = [rouge(*pair) for pair in pairs]
    return {
        'em': [exact_match(*pair) for pair in pairs],
        'f1': [f1(*pair) for pair in pairs],
        **{kind: [overlap[kind] for overlap in overlaps] for kind in ROUGE},
    }


def groups_of(records: Sequence[TokenisedRecord]) -> list[bytes]:
    """Records on the same context share a memory, and their scores rise and fall together."""
    return [record.context.tobytes() for record in records]


def _quarter(place: float | None) -> int | None:
    """0 to 3 for a fraction of the context; the end counts to the last."""
    return None if place is None else min(int(4 * place), 3)


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    """95% percentile interval; nan where any resample has no value."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def batches_of(run: Run, records: Sequence[TokenisedRecord], limit: int) -> Iterator[Batch]:
    """Evaluation batches of the run's own shape."""
    config = run.config
    return eval_batches(
        records, config.data, config.objective.names, run.eos_id, min(config.train.batch_size, limit), limit
    )


def _answer_budget(run: Run, records: Sequence[TokenisedRecord]) -> int:
    """Tokens an answer may have: those of the longest right one with its end token, and not too few for wrong ones."""
    longest = max(len(record.answer) + 1 for record in records)
    return min(run.config.data.answer_length, max(SHORTEST_ANSWER_BUDGET, longest))


def views(program: Program, methods: Sequence[str], base, trainable, batch) -> dict[str, View]:
    """What stands in the context's place under each method."""
    compress = functools.partial(program.compressor.compress, base, trainable)
    contexts = batch['context'], batch['context_length']
    memory, other = compress(*contexts), compress(batch['other']['context'], batch['other']['context_length'])
    controls = [name for name in methods if name != program.method]
    controlled = {name: control_view(name, program.decoder, base, *contexts, memory, other) for name in controls}
    return {program.method: View(memory, True)} | controlled


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_batch(program: Program, methods: tuple[str, ...], base, trainable, batch):
    """{method: ({objective: Totals}, {objective: hits [B]}, k [B])}."""
    viewed, scored = views(program, methods, base, trainable, batch), {}
    for method in methods:
        view, totals, hit = viewed[method], {}, {}
        for name in program.objectives:
            special_D = trainable['special'][name] if view.special else None
            logits_BTV = text_logits(
                program.decoder, base, view.memory, special_D, program.prefix, batch[name]['tokens']
            )
            totals[name] = nll(logits_BTV, batch[name]['tokens'], batch[name]['is_target'])
            hit[name] = hits(logits_BTV, batch[name]['tokens'], batch[name]['is_target'])
        scored[method] = totals, hit, view.memory.lengths
    return replicated(scored)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _answer_inputs(program: Program, method: str, base, trainable, batch, question_BT, lengths_B):
    view = views(program, (method,), base, trainable, batch)[method]
    special_D = trainable['special']['ft'] if view.special else None
    return from_memory(program.decoder, base, view.memory, special_D, program.prefix, question_BT, lengths_B)
