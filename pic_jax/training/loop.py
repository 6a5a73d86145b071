"""The training loop: batches in, metrics.jsonl and checkpoints out; the same workdir resumes by itself."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pic_jax.data.examples import TokenisedRecord
from pic_jax.data.loader import Batches
from pic_jax.data.prepare import prepare
from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.evaluation.harness import Scores, methods_of, score
from pic_jax.evaluation.metrics import gap_share
from pic_jax.masks import slots_in
from pic_jax.run import Run
from pic_jax.training.checkpoint import Checkpoints
from pic_jax.training.optimizer import make_optimizer
from pic_jax.training.step import TrainState, init_state, make_train_step
from pic_jax.training.workdir import write_config
from pic_jax.training.writers import MetricsFile, Record, make_progress


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
    records = prepare(
        config.data, config.objective.names, run.tokenizer, run.template, run.eos_id, ('train', 'validation')
    )
    batches = Batches(
        records['train'], config.data, config.objective.names, run.eos_id, config.train.batch_size, config.seed
    )
    changes = write_config(workdir, config)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    state = init_state(run.init_trainable(), optimizer)
    checkpoints = Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)
    start = checkpoints.latest_step or 0
    progress = make_progress(config.train.steps, start)
    try:
        for change in changes:
            progress.note(f'changed: {change}')
        for line in summary(run, state.trainable, len(records['train'])):
            progress.note(line)
        if start:
            state = checkpoints.restore(start, state)
            progress.note(f'resumed from step {start} of {workdir}')
        metrics = MetricsFile(workdir / 'metrics.jsonl', keep_until=start)
        validate = make_validation(run, records['validation'])
        if start == 0:
            metrics.write({'step': 0, 'split': 'validation', **validate(state.trainable)})
        state = _steps(run, state, start, batches, records['train'], metrics, validate, checkpoints, progress)
    finally:
        progress.close()
        checkpoints.close()
    return state.trainable


def _steps(
    run: Run,
    state: TrainState,
    start: int,
    batches: Batches,
    records: Sequence[TokenisedRecord],
    metrics: MetricsFile,
    validate: Callable[[Any], Record],
    checkpoints: Checkpoints,
    progress: Any,
) -> TrainState:
    config = run.config.train
    train_step = make_train_step(run)
    clock = _Clock()
    waiting: tuple[int, dict[str, Any], dict[str, jax.Array]] | None = None

    def settle() -> None:
        """Fetches the metrics of the step that was dispatched before the newest one."""
        nonlocal waiting
        if waiting is None:
            return
        step, batch, values = waiting
        waiting = None
        record = {'step': step, 'split': 'train'} | {name: float(value) for name, value in values.items()}
        if not record.pop('finite'):
            raise PicJaxError(_not_finite(record, batch, records))
        if step % config.log_every == 0 or step == config.steps:
            record |= clock.lap(step)
            metrics.write(record)
            progress.update(step, f'step {step}  loss {record["loss"]:.4f}  {record["tokens_per_s"]:.0f} tokens/s')

    for step in range(start + 1, config.steps + 1):
        batch = batches[step - 1]
        clock.tokens += tokens_in(batch)
        arrays = jax.device_put(batch)
        with jax.transfer_guard('disallow'):
            state, values = train_step(state, run.base, arrays)
        settle()
        waiting = step, batch, values
        last = step == config.steps
        if last or step % config.eval_every == 0 or step % config.checkpoint_every == 0:
            settle()
        if last or step % config.eval_every == 0:
            record = {'step': step, 'split': 'validation', **validate(state.trainable)}
            metrics.write(record)
            progress.note(f'step {step}  validation loss {record["loss"]:.4f}  {_shares(record)}')
            clock.restart(step)
        if last or step % config.checkpoint_every == 0:
            # Every record up to this step is on disk before the checkpoint can be: a resume loses none.
            checkpoints.save(step, state)
    return state


class _Clock:
    """Wall-clock fields of a record; nothing else in metrics.jsonl depends on time."""

    def __init__(self):
        self.tokens, self._step, self._time = 0, None, time.perf_counter()

    def lap(self, step: int) -> dict[str, float]:
        """Seconds and tokens per second since the last lap."""
        seconds = time.perf_counter() - self._time
        fields = {'elapsed_s': round(seconds, 3), 'tokens_per_s': round(self.tokens / max(seconds, 1e-9), 1)}
        self.restart(step)
        return fields

    def restart(self, step: int) -> None:
        """Starts a new lap."""
        self.tokens, self._step, self._time = 0, step, time.perf_counter()


def tokens_in(batch: dict[str, Any]) -> int:
    """Real context tokens and target tokens of a batch."""
    targets = sum(int(value['is_target'].sum()) for value in batch.values() if isinstance(value, dict))
    return int(batch['context_length'].sum()) + targets


def make_validation(run: Run, records: Sequence[TokenisedRecord]) -> Callable[[Any], Record]:
    """A function from trainable parameters to the fields of a validation record.

    Fields: `loss` (weighted as in training, without distill), `<objective>_nats`, the same with `_<control>` for
    every control, and `<objective>_gap_share` = (no_context - method) / (no_context - full_context). Controls that
    do not depend on the compressor are scored once.
    """
    method, *controls = methods_of(run)
    limit = run.config.train.eval_examples
    weights = {name: getattr(run.config.objective, name) for name in run.config.objective.names}
    fixed: dict[str, Scores] = {}

    def validate(trainable: Any) -> Record:
        if not fixed:
            names = [name for name in controls if name != 'shuffled_memory']
            fixed.update(score(run, trainable, records, names, limit))
        scores = fixed | score(run, trainable, records, (method, 'shuffled_memory'), limit)
        record = {'loss': sum(weight * scores[method].per_token(name) for name, weight in weights.items())}
        for name in weights:
            nats = {other: scores[other].per_token(name) for other in (method, *controls)}
            record[f'{name}_nats'] = nats.pop(method)
            record |= {f'{name}_nats_{other}': value for other, value in nats.items()}
            if 'full_context' in nats and name != 'ae':
                share = gap_share(nats['no_context'], nats['full_context'], record[f'{name}_nats'])
                record |= {f'{name}_gap_share': share} if np.isfinite(share) else {}
        return record

    return validate


def check_fits(run: Run) -> None:
    """Refuses texts that do not fit the decoder behind the memory."""
    data, available = run.config.data, run.decoder.config.max_position_embeddings
    widths = {'ae': data.context_length + 1, 'lm': data.target_length, 'ft': data.answer_length}
    k = slots_in(run.config.compressor, data.context_length)
    if run.config.compressor.decoder_positions == 'spread':
        k = data.context_length
    for name in run.config.objective.names:
        needed = len(run.prefix) + k + 1 + widths[name]
        if needed > available:
            raise ConfigError(
                f'objective.{name} needs {needed} positions in the decoder (prefix, memory, special, text) '
                f'but the model has {available}: shorten the data.* lengths or raise compressor.ratio'
            )


def count(tree: Any) -> int:
    """Parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def summary(run: Run, trainable: Any, examples: int) -> list[str]:
    """What is about to happen, in a few lines."""
    config, devices = run.config, jax.devices()
    context = config.data.context_length
    k = slots_in(config.compressor, context)
    layout = config.compressor.method
    if config.compressor.chunk_size:
        layout += f' (chunks of {config.compressor.chunk_size}, context sees {config.compressor.context_sees})'
    return [
        f'devices: {len(devices)} x {devices[0].device_kind}',
        f'parameters: {count(trainable):,} trained, {count(run.base):,} frozen ({config.base})',
        f'{layout}: ratio {config.compressor.ratio}, {context} tokens -> k = {k} vectors',
        f'{examples:,} training examples, {config.train.batch_size} a step, '
        f'up to {config.train.batch_size * context:,} context tokens a step',
    ]


def _shares(record: Record) -> str:
    shares = {name: value for name, value in record.items() if name.endswith('gap_share')}
    return '  '.join(f'{name} {value:.3f}' for name, value in shares.items())


def _not_finite(record: Record, batch: dict[str, Any], records: Sequence[TokenisedRecord]) -> str:
    sources = ', '.join(records[index].source for index in batch['index'])
    return (
        f'step {record["step"]}: loss {record["loss"]} and gradient norm {record["grad_norm"]} are not finite; '
        f'the update was discarded. The batch: {sources}'
    )
