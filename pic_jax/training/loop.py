"""The training loop: batches in, metrics.jsonl and checkpoints out; the same workdir resumes by itself."""

import dataclasses
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pic_jax.budget import memory_slots, num_embeddings
from pic_jax.compressors.registry import make_compressor
from pic_jax.config import TrainConfig
from pic_jax.data.examples import TokenisedRecord, packed
from pic_jax.data.loader import Batch, Batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation.harness import Scores, batches_of, methods_of, score
from pic_jax.evaluation.metrics import gap_share
from pic_jax.models.scoring import Totals
from pic_jax.nested import at_ratio, served_ratios, trainable_at
from pic_jax.run import Run, check_fits, named_folder
from pic_jax.training import weights
from pic_jax.training.checkpoint import Checkpoints, restore_trainable
from pic_jax.training.objectives import Loss, compressor_loss, words_totals
from pic_jax.training.ratios import drawn_ratios, nested_losses
from pic_jax.training.step import TrainState, init_state, make_train_step
from pic_jax.training.workdir import compare_config, read_config, write_config
from pic_jax.training.writers import MetricsFile, Progress, Record, make_progress

# What a compressor may change when it trains on.
RESIZABLE = ('ratio', 'ratios', 'chunk_size', 'window', 'context_length')


class Job(NamedTuple):
    """What the loop needs to know of a training, whatever is trained.

    Attributes:
      config: the run's settings; kept in the workdir, and its `train` and `optimizer` groups drive the loop.
      loss: see objectives.Loss. init: makes the trained parameters. frozen: parameters that the loss only reads.
      batches: batches by step. sources: names the examples of a batch, for messages.
      validate: trained parameters -> fields of a validation record.
      summary: lines to print at the start.
      nested: {ratio: loss} where every step draws a ratio from `config.seed`; its loss is then minimised, not `loss`.
    """

    config: Any
    loss: Loss
    init: Callable[[], Any]
    frozen: Any
    batches: Batches
    sources: Callable[[Batch], str]
    validate: Callable[[Any], Record]
    summary: Callable[[Any], list[str]]
    nested: Mapping[int, Loss] = types.MappingProxyType({})


def train(run: Run, workdir: Path) -> dict[str, Any]:
    """Trains the run's compressor up to `train.steps`, from the workdir's newest checkpoint if it has one.

    Returns:
      the trained parameters.

    Raises:
      ConfigError: the workdir holds another run, or memory and text do not fit the decoder.
      PicJaxError: data or checkpoint cannot be used, or a loss is not finite (the message has step and batch).
    """
    config = run.config
    check_fits(run)
    names = config.objective.names
    records, dropped = prepare(config.data, names, run.tokenizer, run.template, run.eos_id, ('train', 'validation'))
    training = packed(records['train'], config.data, run.eos_id)
    job = Job(
        config=config,
        loss=compressor_loss(run),
        init=lambda: initial_trainable(run),
        frozen=run.base,
        batches=Batches(training, config.data, names, run.eos_id, config.train.batch_size, config.seed),
        sources=lambda batch: ', '.join(training[index].source for index in batch['index']),
        validate=make_validation(run, records['validation']),
        summary=lambda trainable: summary(run, trainable, len(training), dropped),
        nested=nested_losses(run),
    )
    return fit(job, workdir)


def initial_trainable(run: Run) -> Any:
    """Fresh parameters, or those of the compressor in `config.start`.

    That compressor may have been trained at other ratios and on other lengths (RESIZABLE); its memory embeddings are
    then repeated or left out at even distances. A nested one gives those that it uses at the run's ratio.

    Raises:
      PicJaxError: that workdir has no checkpoint.
      ConfigError: it holds another compressor.
    """
    if not run.config.start:
        return run.init_trainable()
    folder = named_folder(run.config.start)
    config, ours = read_config(folder), run.config.compressor
    resized = dataclasses.replace(config.compressor, **{name: getattr(ours, name) for name in RESIZABLE})
    for name, theirs, own in ('base', config.base, run.config.base), ('compressor', resized, ours):
        if theirs != own:
            raise ConfigError(f'start={run.config.start} has {name}={theirs}, this run has {name}={own}')
    saved = dataclasses.replace(run, config=config, compressor=make_compressor(config.compressor, run.decoder))
    trainable = restore_trainable(saved, folder)
    if ours.ratio in config.compressor.ratios:
        trainable = trainable_at(config.compressor, trainable, ours.ratio)
    if 'memory_embeddings' not in trainable:
        return trainable
    embeddings_MD = trainable['memory_embeddings']
    rows = np.arange(num_embeddings(ours)) * len(embeddings_MD) // num_embeddings(ours)
    return trainable | {'memory_embeddings': embeddings_MD[rows]}


def fit(job: Job, workdir: Path) -> Any:
    """Runs a job to its last step in a workdir, resuming by itself; returns the trained parameters."""
    config: TrainConfig = job.config.train
    if (workdir / weights.NAME).exists():
        raise ConfigError(
            f'{workdir} holds saved weights ({weights.NAME}), which a run must not stand beside: '
            f'use another --workdir, and start={workdir} to go on from them'
        )
    changes = compare_config(workdir, job.config)
    # Placed as the step's results will be: arrays of two kinds would compile the step twice.
    state = jax.device_put(init_state(job.init(), job.config.optimizer, config.steps), jax.local_devices()[0])
    checkpoints = Checkpoints(workdir / 'checkpoints', config.keep_checkpoints)
    start = checkpoints.latest_step or 0
    if start > config.steps:
        raise ConfigError(f'train.steps={config.steps} is not valid: {workdir} has reached step {start}')
    progress = make_progress(config.steps, start)
    try:
        for line in [f'changed: {change}' for change in changes] + job.summary(state.trainable):
            progress.note(line)
        if start:
            state = checkpoints.restore(start, state)
            progress.note(f'resumed from step {start} of {workdir}')
        write_config(workdir, job.config)
        # Without a checkpoint the run starts over, and its first record with it.
        metrics = MetricsFile(workdir / 'metrics.jsonl', keep_until=start or -1)
        if start == 0:
            metrics.write(validation_record(job, 0, state.trainable))
        state = _steps(job, state, start, metrics, checkpoints, progress)
    finally:
        progress.close()
        checkpoints.close()
    return state.trainable


def _steps(
    job: Job, state: TrainState, start: int, metrics: MetricsFile, checkpoints: Checkpoints, progress: Progress
) -> TrainState:
    config: TrainConfig = job.config.train
    losses = job.nested or {0: job.loss}
    drawn = drawn_ratios(tuple(losses), job.config.seed, range(config.steps))
    train_steps = {ratio: make_train_step(loss, job.config.optimizer, config) for ratio, loss in losses.items()}
    clock = _Clock()
    waiting: tuple[int, Batch, dict[str, jax.Array]] | None = None

    def settle() -> None:
        """Fetches the metrics of the step that was dispatched before the newest one."""
        nonlocal waiting
        if waiting is None:
            return
        step, batch, values = waiting
        waiting = None
        clock.tokens += tokens_in(batch)
        record = {'step': step, 'split': 'train'} | ({'ratio': int(drawn[step - 1])} if job.nested else {})
        record |= {name: float(value) for name, value in sorted(values.items())}
        if not record.pop('finite'):
            raise PicJaxError(
                f'step {step}: loss {record["loss"]} and gradient norm {record["grad_norm"]} are not finite; '
                f'the update was discarded. The batch: {job.sources(batch)}'
            )
        if step % config.log_every == 0 or step == config.steps:
            record |= clock.lap()
            metrics.write(record)
            progress.update(step, f'step {step}  loss {record["loss"]:.4f}  {record["tokens_per_s"]:.0f} tokens/s')

    for step in range(start + 1, config.steps + 1):
        batch = job.batches[step - 1]
        arrays = jax.device_put(batch)
        with jax.transfer_guard('disallow'):
            state, values = train_steps[drawn[step - 1]](state, job.frozen, arrays)
        settle()
        waiting = step, batch, values
        last = step == config.steps
        evaluates, saves = last or step % config.eval_every == 0, last or step % config.checkpoint_every == 0
        if evaluates or saves:
            settle()
        if evaluates:
            record = validation_record(job, step, state.trainable)
            metrics.write(record)
            progress.note(f'step {step}  validation loss {record["loss"]:.4f}  {_shares(record)}'.rstrip())
            clock.restart()
        if saves:
            # Every record up to this step is on disk before the checkpoint can be: a resume loses none.
            checkpoints.save(step, state)
    return state


def validation_record(job: Job, step: int, trainable: Any) -> Record:
    """What metrics.jsonl keeps of a validation.

    Raises:
      PicJaxError: a number is not finite.
    """
    record = {'step': step, 'split': 'validation', **job.validate(trainable)}
    for name, value in record.items():
        if isinstance(value, float) and not np.isfinite(value):
            raise PicJaxError(f'step {step}: {name} of the validation is {value}')
    return record


class _Clock:
    """Wall-clock fields of a record; nothing else in metrics.jsonl depends on time."""

    def __init__(self):
        self.restart()

    def lap(self) -> dict[str, float]:
        """Seconds and tokens per second since the last lap."""
        seconds = time.perf_counter() - self._time
        fields = {'elapsed_s': round(seconds, 3), 'tokens_per_s': round(self.tokens / max(seconds, 1e-9), 1)}
        self.restart()
        return fields

    def restart(self) -> None:
        """Starts a new lap."""
        self.tokens, self._time = 0, time.perf_counter()


def tokens_in(batch: dict[str, Any]) -> int:
    """Real context tokens and target tokens of a batch."""
    groups = [value for value in batch.values() if isinstance(value, dict)]
    targets = sum(int(mask.sum()) for group in groups for mask in group.values() if mask.dtype == bool)
    return targets + int(np.sum(batch.get('context_length', 0)))


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
    compressor, record = run.config.compressor, {}
    for ratio in compressor.ratios[1:]:
        weights, view = trainable_at(compressor, trainable, ratio), run.at_ratio(ratio)
        scores = score(view, weights, records, (compressor.method,), len(records))[compressor.method]
        record |= {f'{name}_nats_{ratio}x': scores.per_token(name) for name in run.config.objective.names}
    return record


def count(tree: Any) -> int:
    """Parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def summary(run: Run, trainable: Any, examples: int, dropped: int) -> list[str]:
    """What is about to happen, in a few lines."""
    config, devices = run.config, jax.devices()
    context = config.data.context_length
    ratios = served_ratios(config.compressor)
    k = [memory_slots(at_ratio(config.compressor, ratio), context) for ratio in ratios]
    drawn = f' (each step draws one of {len(ratios)})' if len(ratios) > 1 else ''
    layout = config.compressor.method
    if config.compressor.chunk_size:
        layout += f' (chunks of {config.compressor.chunk_size}, context sees {config.compressor.context_sees})'
    return [
        f'devices: {len(devices)} x {devices[0].device_kind}',
        f'parameters: {count(trainable):,} trained, {count(run.base):,} frozen ({config.base})',
        f'{layout}: ratio {commas(ratios)}{drawn}, {context} tokens -> k = {commas(k)} vectors',
        f'{examples:,} training examples, {config.train.batch_size} a step, '
        f'up to {config.train.batch_size * context:,} context tokens a step',
        *([f'{dropped:,} documents are too short for data.min_context and are left out'] if dropped else []),
    ]


def commas(numbers: Sequence[int]) -> str:
    """`4, 8, 16`."""
    return ', '.join(map(str, numbers))


def _shares(record: Record) -> str:
    shares = {name: value for name, value in record.items() if name.endswith('gap_share')}
    return '  '.join(f'{name} {value:.3f}' for name, value in shares.items())
