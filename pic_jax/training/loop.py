"""The training loop: batches in, metrics.jsonl and checkpoints out; the same workdir resumes by itself."""

import contextlib
import dataclasses
import functools
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pic_jax.config import TrainConfig
from pic_jax.data.loader import Batch
from pic_jax.distributed import is_main
from pic_jax.errors import ConfigError, PicJaxError, RunInterruptedError
from pic_jax.evaluation.flops import count_flops
from pic_jax.training import weights
from pic_jax.training.checkpoint import Checkpoints, score_of
from pic_jax.training.interruption import Preemption, Watchdog, exit_where_a_peer_is_lost
from pic_jax.training.objectives import Loss
from pic_jax.training.profiler import Profiler, clipped
from pic_jax.training.ratios import drawn_ratios
from pic_jax.training.recovery import set_damaged_aside
from pic_jax.training.sharding import abstract, born_sharded, place_batch, rows_of_process
from pic_jax.training.step import TrainState, init_state, make_train_step
from pic_jax.training.telemetry import Clock, Spikes, tokens_in
from pic_jax.training.trackers import check_trackers, make_tracker
from pic_jax.training.workdir import compare_config, write_config
from pic_jax.training.writers import (
    Metrics,
    MetricsFile,
    Progress,
    Record,
    Several,
    SilentProgress,
    gap_shares,
    make_progress,
    not_finite,
    progress_line,
)


class BatchesByStep(Protocol):
    """`batches[step]`, in any order and as often as wanted."""

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step >= 0."""
        ...


class Job(NamedTuple):
    """What the loop needs to know of a training, whatever is trained.

    Attributes:
      config: the run's settings; kept in the workdir, and its `train` and `optimizer` groups drive the loop.
      loss: see objectives.Loss. frozen: parameters that the loss only reads.
      init: frozen parameters -> fresh trained ones, compiled.
      given: () -> what a run starts from in place of fresh ones, of their shapes; a resumed run does not ask for it.
      batches: batches by step, of which every process has its rows.
      sources: names the examples of a batch, for messages.
      validate: trained parameters -> fields of a validation record.
      summary: lines to print at the start.
      mesh: the devices. base: identity of the frozen parameters, which checkpoints name.
      nested: {ratio: loss} where every step draws a ratio from `config.seed`; its loss is then minimised, not `loss`.
      counted: the same losses ({0: loss} if not nested) without recomputed layers and kernels, where the job's have
        some: MFU counts the operations of these.
    """

    config: Any
    loss: Loss
    init: Callable[[Any], Any]
    frozen: Any
    batches: BatchesByStep
    sources: Callable[[Batch], str]
    validate: Callable[[Any], Record]
    summary: Callable[[Any], list[str]]
    mesh: Mesh
    given: Callable[[], Any] | None = None
    base: str = ''
    nested: Mapping[int, Loss] = types.MappingProxyType({})
    counted: Mapping[int, Loss] = types.MappingProxyType({})


class Watch(NamedTuple):
    """How a run is looked at while it goes; changes no result.

    profile_steps: steps to trace. log_to: names of trackers (trackers.NAMES).
    """

    profile_steps: range = range(0)
    log_to: tuple[str, ...] = ()


UNWATCHED = Watch()


def initial_state(job: Job) -> TrainState:
    """The state before the first step, every device making or receiving its own part."""
    given = job.given() if job.given else None
    return born_sharded(functools.partial(first_state, job), job.mesh, job.frozen, given)


def abstract_state(job: Job) -> TrainState:
    """Shapes, dtypes and shardings of the state."""
    return abstract(jax.eval_shape(functools.partial(first_state, job), job.frozen), job.mesh)


def first_state(job: Job, frozen: Any, given: Any = None) -> TrainState:
    """The state before the first step, of fresh parameters where none are given."""
    trainable = job.init(frozen) if given is None else given
    return init_state(trainable, job.config.optimizer, job.config.train.steps)


def fit(job: Job, workdir: Path, watch: Watch = UNWATCHED) -> Any:
    """Runs a job to its last step in a workdir, resuming by itself; returns the trained parameters.

    Raises:
      ConfigError: the workdir holds another run, or a setting does not fit.
      PicJaxError: a checkpoint does not fit, all are damaged, a file cannot be written, or more losses than are allowed
        are not finite.
      RunInterruptedError: the machine is being taken away; a checkpoint has been saved.
    """
    config: TrainConfig = job.config.train
    check_trackers(watch.log_to)
    if (workdir / weights.NAME).exists():
        raise ConfigError(
            f'{workdir} holds saved weights ({weights.NAME}), which a run must not stand beside: '
            f'use another --workdir, and start={workdir} to go on from them'
        )
    changes = compare_config(workdir, job.config)
    # Left in reverse order: after a preemption the time belongs to the checkpoint, then to what is shown and sent.
    with contextlib.ExitStack() as sent, contextlib.ExitStack() as kept:
        preemption, watchdog = Preemption(), Watchdog(config.stall_timeout_s)
        kept.callback(preemption.close)
        kept.callback(watchdog.close)
        damaged = set_damaged_aside(workdir / 'checkpoints')
        checkpoints = Checkpoints(workdir / 'checkpoints', config.keep_checkpoints, job.base, config.best_metric)
        kept.callback(checkpoints.close)
        start = checkpoints.latest_step or 0
        if start > config.steps:
            raise ConfigError(f'train.steps={config.steps} is not valid: {workdir} has reached step {start}')
        progress = make_progress(config.steps, start) if is_main() else SilentProgress()
        sent.callback(progress.close)
        for line in damaged + [f'changed: {change}' for change in changes]:
            progress.note(line)
        with jax.set_mesh(job.mesh):  # before anything is sent: a checkpoint or a given start may be refused
            state = checkpoints.restore(start, abstract_state(job)) if start else initial_state(job)
        profiler = Profiler(workdir / 'profile', clipped(watch.profile_steps, start, config.steps, progress.note))
        sent.callback(end_quietly, profiler.close, progress)
        names = watch.log_to if is_main() and start < config.steps else ()
        trackers = [make_tracker(name, workdir, dataclasses.asdict(job.config), start) for name in names]
        for tracker in trackers:
            sent.callback(end_quietly, tracker.close, progress)

        def finish() -> None:
            progress.close()
            checkpoints.wait()  # a save whose files are all written needs this process only

        with jax.set_mesh(job.mesh), exit_where_a_peer_is_lost(finish):
            for line in job.summary(state.trainable) + ([f'resumed from step {start} of {workdir}'] if start else []):
                progress.note(line)
            metrics, spikes, validated = Several([]), Spikes([]), False
            if is_main():
                write_config(workdir, job.config)
                file = MetricsFile(workdir / 'metrics.jsonl')
                metrics, (spikes, validated) = Several([file, *trackers]), history(file, start)
            # Also of a run that was told to stop: it had no time to validate the step that it saved.
            if multihost_utils.broadcast_one_to_all(np.bool_(validates(config, start) and not validated)):
                record = validation_record(job, start, state.trainable)
                score_of(record, config.best_metric)  # refuses a metric that there is not, before the first step
                metrics.write(record)
            loop = Loop(job, metrics, checkpoints, progress, preemption, watchdog, profiler, spikes)
            return loop.run(state, start).trainable


def history(file: MetricsFile, start: int) -> tuple[Spikes, bool]:
    """What new losses are compared with, and whether step `start` has been validated; drops the records after it.

    Without a checkpoint (0) the run starts over, and its first record with it.
    """
    records = file.cut(start or -1)
    validated = any((record['split'], record['step']) == ('validation', start) for record in records)
    return Spikes(records), validated


def validates(config: TrainConfig, step: int) -> bool:
    """Whether a step has a validation record."""
    return step % config.eval_every == 0 or step == config.steps


def end_quietly(close: Callable[[], None], progress: Progress) -> None:
    """Ends what only looks at a run: a failure there is shown, and does not become the run's."""
    try:
        close()
    except Exception as error:  # of a profiler or of a tracker's own package, of any kind
        progress.note(f'{type(error).__name__}: {error}')


class Waiting(NamedTuple):
    """A step that has been dispatched, and whose metrics nobody has asked for yet."""

    step: int
    batch: Batch
    flops: float
    values: dict[str, jax.Array]


class Loop:
    """The steps of a job. Metrics of a step are fetched after the next one has been dispatched."""

    def __init__(
        self,
        job: Job,
        metrics: Metrics,
        checkpoints: Checkpoints,
        progress: Progress,
        preemption: Preemption,
        watchdog: Watchdog,
        profiler: Profiler,
        spikes: Spikes,
    ):
        """See `fit`, which makes all of these."""
        self._job, self._metrics, self._checkpoints, self._progress = job, metrics, checkpoints, progress
        self._preemption, self._watchdog, self._profiler, self._spikes = preemption, watchdog, profiler, spikes
        self._config: TrainConfig = job.config.train
        losses = job.nested or {0: job.loss}
        self._drawn = drawn_ratios(tuple(losses), job.config.seed, range(self._config.steps))
        self._losses, self._clock = losses, Clock(job.mesh.devices)
        self._waiting: Waiting | None = None
        self._flops: dict[Any, float] = {}
        rows = len(rows_of_process(job.mesh, self._config.batch_size))
        self._shares = self._config.batch_size // rows  # processes that draw different rows

    def run(self, state: TrainState, start: int) -> TrainState:
        """Runs the steps after `start`.

        Raises:
          as `fit`.
        """
        job, config = self._job, self._config
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        optimizer = job.config.optimizer
        steps = {ratio: make_train_step(loss, optimizer, config, places) for ratio, loss in self._losses.items()}
        for step in range(start + 1, config.steps + 1):
            asked, ratio = time.perf_counter(), self._drawn[step - 1]
            batch = job.batches[step - 1]
            arrays = place_batch(batch, job.mesh)
            self._clock.fetched(time.perf_counter() - asked)
            self._profiler.before(step)
            with jax.transfer_guard('disallow'):
                state, values = steps[ratio](state, job.frozen, arrays)
            if text := self._profiler.after(step, values):
                self._progress.note(text)
            flops = self._count(step, steps[ratio], state, arrays)  # while the devices work on the step
            self._settle()
            self._waiting = Waiting(step, batch, flops, values)
            last = step == config.steps
            stopped = self._preemption.reached() and not last
            evaluates = validates(config, step) and not stopped  # else the next start does
            saves = last or stopped or step % config.checkpoint_every == 0
            if evaluates or saves:
                self._settle()
                self._watchdog.rest()
            score = self._validate(step, state.trainable) if evaluates else None
            if saves:
                # Every record up to this step is on disk before the checkpoint can be: a resume loses none.
                self._checkpoints.save(step, state, score)
            if last or stopped:
                self._checkpoints.wait()  # while a lost peer is still noticed
            if stopped:
                raise RunInterruptedError(
                    f'told to stop: saved step {step} of {config.steps}; run the same command again to go on'
                )
        return state

    def _count(self, number: int, step: Callable[..., Any], state: TrainState, batch: Any) -> float:
        """Operations of a step, counted once for every ratio and shape of batch; the first are printed."""
        ratio = self._drawn[number - 1]
        key = (ratio, *(leaf.shape for leaf in jax.tree.leaves(batch)))
        if key not in self._flops:
            if ratio in self._job.counted:
                step = make_train_step(self._job.counted[ratio], self._job.config.optimizer, self._config)
            flops = count_flops(step, state, self._job.frozen, batch)
            if not self._flops:
                self._progress.note(f'step {number} has {self._clock.formula(flops)}')
            self._flops[key] = flops
        return self._flops[key]

    def _settle(self) -> None:
        """Fetches the metrics of the step that was dispatched before the newest one."""
        if self._waiting is None:
            return
        (step, batch, flops, arrays), self._waiting = self._waiting, None
        values = {name: float(value) for name, value in sorted(arrays.items())}  # waits for the step
        self._watchdog.fed(step)
        ratio = int(self._drawn[step - 1])
        self._clock.worked(tokens_in(batch) * self._shares, flops)
        skipped = step - int(values.pop('updates'))
        if not values.pop('finite'):
            self._skip(step, batch, values, skipped)
        record = {'step': step, 'split': 'train'} | ({'ratio': ratio} if self._job.nested else {})
        record |= {name: value for name, value in values.items() if np.isfinite(value)}
        record['skipped_steps'] = skipped
        if 'loss' in record and self._spikes.high(record):
            record['spike'] = True
            self._progress.note(f'step {step}: loss spike, {record["loss"]:.4f}. The batch: {self._job.sources(batch)}')
        regular = step % self._config.log_every == 0 or step == self._config.steps
        if regular:
            record |= self._clock.lap()
            self._progress.update(step, progress_line(record))
        if regular or 'spike' in record:
            self._metrics.write(record)
            self._spikes.add(record)

    def _skip(self, step: int, batch: Batch, values: Mapping[str, float], skipped: int) -> None:
        """Reports an update that was discarded.

        Raises:
          PicJaxError: it is one too many.
        """
        limit = self._config.max_skipped_steps
        named = {'loss': values['loss'], 'gradient norm': values['grad_norm']}
        wrong = [f'{name} {value}' for name, value in named.items() if not np.isfinite(value)]
        text = (
            f'step {step}: {" and ".join(wrong)} {"is" if len(wrong) == 1 else "are"} not finite; the update was '
            f'discarded ({skipped} so far, train.max_skipped_steps={limit}). The batch: {self._job.sources(batch)}'
        )
        if skipped > limit:
            raise PicJaxError(text)
        self._progress.note(text)

    def _validate(self, step: int, trainable: Any) -> float | None:
        """Writes the validation record; returns its score (see `checkpoint.score_of`)."""
        record = validation_record(self._job, step, trainable)
        self._metrics.write(record)
        self._progress.note(f'step {step}  validation loss {record["loss"]:.4f}  {gap_shares(record)}'.rstrip())
        self._clock.restart()
        return score_of(record, self._config.best_metric)


def validation_record(job: Job, step: int, trainable: Any) -> Record:
    """What metrics.jsonl keeps of a validation.

    Raises:
      PicJaxError: a number is not finite.
    """
    record = {'step': step, 'split': 'validation', **job.validate(trainable)}
    if wrong := not_finite(record):
        raise PicJaxError(wrong)
    return record
