"""Orbax checkpoints of the trained state; of the frozen base only its identity is kept."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

from pic_jax.errors import PicJaxError, first_line
from pic_jax.run import Run
from pic_jax.training import orbax_noise, weights
from pic_jax.training.checksums import find_damage, write_checksums
from pic_jax.training.identity import identity
from pic_jax.training.sharding import abstract
from pic_jax.training.step import init_state

MAX_LISTED = 8
LATEST, BEST = 'latest', 'best'

# A validation field whose name ends so is better when it is higher.
HIGHER_IS_BETTER = ('exact', 'accuracy', 'gap_share')


class KeepBest(PreservationPolicy):
    """Keeps the checkpoint with the highest score; Orbax's own policy for this needs a file of metrics per checkpoint.

    Attributes:
      scores: step -> score of every checkpoint that has one.
    """

    def __init__(self):
        """Without scores."""
        self.scores: dict[int, float] = {}

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        """True for the best one."""
        scored = [info.step for info in checkpoints if info.step in self.scores]
        best = max(scored, key=self.scores.__getitem__, default=None)
        return [info.step == best for info in checkpoints]


class Checkpoints:
    """The `checkpoints/` folder of a workdir. Saves are asynchronous and atomic; all processes take part.

    Every one has checksums (training/checksums.py).
    """

    def __init__(self, folder: Path, keep: int, base: str = '', metric: str = '', saves: bool = True):
        """Opens or creates the folder; the newest `keep` checkpoints and the best one are preserved.

        Args:
          base: identity of the frozen parameters (`identity`) that the states belong to.
          metric: what the scores are of (`score_of`); checkpoints that were scored by another one have none here.
          saves: what a killed save left behind is deleted. False for readers: it may be a save that is still going on.

        Raises:
          PicJaxError: the folder cannot be made.
        """
        orbax_noise.silence()
        self.folder, self._base, self._metric, self._best = folder, base, metric, KeepBest()
        self._saving = 0  # the step that was last given to Orbax, which may still be writing it
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
            cleanup_tmp_directories=saves,
        )
        try:
            self._manager = ocp.CheckpointManager(
                folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        except OSError as error:
            raise PicJaxError(f'{folder}: cannot be used for checkpoints ({error.strerror})') from error
        for step in self._manager.all_steps():
            with contextlib.suppress(Exception):  # damaged: no best; `restore` says why
                saved = self._metadata(step)
                if saved.get('metric', metric) == metric:  # older checkpoints do not name it
                    self._best.scores[step] = saved['score']

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def find(self, step: int | str) -> int:
        """The step of a saved checkpoint: that number, the newest (`latest`) or the one that is best by its score.

        Raises:
          PicJaxError: there is none, or not this one, or it is damaged.
        """
        saved = self._manager.all_steps()
        if not saved:
            raise PicJaxError(f'{self.folder.parent} has no checkpoint yet: train first')
        scores = {each: self._best.scores[each] for each in saved if each in self._best.scores}
        if step == BEST and scores:
            self._check_whole(*saved)  # a damaged score could hide the best
            return max(scores, key=scores.__getitem__)
        if step != LATEST and step not in saved:
            names = [*map(str, sorted(saved)), LATEST, *([BEST] if scores else [])]
            raise PicJaxError(f'step={step} is not valid: {self.folder} has {", ".join(names)}')
        found = max(saved) if step == LATEST else int(step)
        self._check_whole(found)
        return found

    def _check_whole(self, *steps: int) -> None:
        for step in steps:
            if damage := find_damage(self.folder / str(step)):
                others = ', '.join(str(each) for each in sorted(self._manager.all_steps()) if each != step) or 'none'
                raise PicJaxError(f'checkpoint {step} is damaged: {damage.text} (other steps: {others})')

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Starts saving; the state may be donated to the next step at once.

        Args:
          score: how good it is, higher is better; None where it was not measured.

        Raises:
          PicJaxError: it cannot be written, or the save before, which ended in the background, could not be.
        """
        self.wait()
        self._saving = step
        metadata: dict[str, Any] = {'base': self._base}
        if score is not None:
            self._best.scores[step] = score
            metadata |= {'score': score, 'metric': self._metric}
        with self._explained(step, 'saved'):
            self._manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=metadata)

    def _complete(self) -> None:
        """Called by Orbax in the main process when all files are written, before it gives their folder its name."""
        name = str(self._saving)
        write_checksums(next(self.folder.glob(f'{name}.orbax-checkpoint-tmp*'), self.folder / name))

    def restore(self, step: int, like: Any) -> Any:
        """The saved state.

        Args:
          like: a tree of arrays, or of abstract shapes with shardings: where the state shall live, on whatever mesh
            and in however many processes it was saved.

        Raises:
          PicJaxError: keys, shapes or dtypes differ (named both ways), the state belongs to other frozen parameters,
            or the files are unreadable.
        """
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with self._explained(step, 'restored'):
            saved = self._manager.item_metadata(step)
            self._check(step, described(saved), described(wanted))
            self._check_base(step, self._metadata(step).get('base', ''))
            return self._manager.restore(step, args=ocp.args.StandardRestore(wanted))

    @contextlib.contextmanager
    def _explained(self, step: int, done: str) -> Iterator[None]:
        """Orbax and tensorstore raise many kinds for damaged files and full disks: one line says what failed."""
        try:
            yield
        except PicJaxError:
            raise
        except Exception as error:
            raise PicJaxError(f'{self.folder}/{step}: cannot be {done} ({first_line(error)})') from error

    def _metadata(self, step: int) -> dict[str, Any]:
        return self._manager.metadata(step).custom_metadata or {}

    def _check_base(self, step: int, saved: str) -> None:
        if saved != self._base:
            raise PicJaxError(
                f'{self.folder}/{step} was trained for another base: its configuration and tensors have the identity '
                f'{saved[:12] or "(none)"}, those of this run {self._base[:12] or "(none)"}'
            )

    def _check(self, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
        differences = [f'{key}: saved, not wanted' for key in saved.keys() - wanted.keys()]
        differences += [f'{key}: wanted, not saved' for key in wanted.keys() - saved.keys()]
        differences += [
            f'{key}: saved {saved[key]}, wanted {wanted[key]}'
            for key in saved.keys() & wanted.keys()
            if saved[key] != wanted[key]
        ]
        if differences:
            listed = '; '.join(sorted(differences)[:MAX_LISTED])
            more = f' and {len(differences) - MAX_LISTED} more' if len(differences) > MAX_LISTED else ''
            raise PicJaxError(f'{self.folder}/{step} does not fit this run: {listed}{more}')

    def wait(self) -> None:
        """Until the last save is complete.

        Raises:
          PicJaxError: it failed.
        """
        with self._explained(self._saving, 'saved'):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the folder.

        Raises:
          PicJaxError: the last save failed.
        """
        with self._explained(self._saving, 'saved'):
            self._manager.close()


def described(tree: Any) -> dict[str, str]:
    """Path -> 'dtype[shape]'. Orbax gives tuples back as mappings, so only names and numbers of the path count."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {
        '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path):
        f'{leaf.dtype}{list(leaf.shape)}'
        for path, leaf in leaves
    }  # fmt: skip


def score_of(record: dict[str, Any], metric: str) -> float | None:
    """How good a validation record is by one of its fields, higher is better; None where no metric is set.

    Raises:
      PicJaxError: the record has no such measurement.
    """
    if not metric:
        return None
    if not isinstance(record.get(metric), float):
        fields = ', '.join(name for name, value in record.items() if isinstance(value, float))
        raise PicJaxError(f'train.best_metric={metric!r} is not valid: expected one of {fields}')
    return record[metric] if metric.endswith(HIGHER_IS_BETTER) else -record[metric]


class Trained(NamedTuple):
    """Parameters, and the step of the checkpoint that has them; None where they are not a checkpoint's."""

    trainable: Any
    step: int | None


def restore_trainable(run: Run, workdir: Path, step: int | str = LATEST) -> Trained:
    """The trained parameters in a run's workdir: those of a checkpoint, or the file of weights that it holds instead.

    Args:
      step: of the checkpoint; `latest`; or `best`, by the run's `train.best_metric`.

    Raises:
      PicJaxError: there is no such checkpoint, it is damaged, or it does not fit.
    """
    if (workdir / weights.NAME).is_file():
        if step != LATEST:
            raise PicJaxError(
                f'step={step} is not valid: {workdir} holds weights only ({weights.NAME}), no checkpoints'
            )
        return Trained(weights.read_weights(workdir, jax.eval_shape(run.init_trainable)), None)
    if not (workdir / 'checkpoints').is_dir():
        raise PicJaxError(f'{workdir} has no checkpoint yet: train first')
    train, base = run.config.train, identity(run.base, run.decoder.config)
    checkpoints = Checkpoints(workdir / 'checkpoints', train.keep_checkpoints, base, train.best_metric, saves=False)
    try:
        found = checkpoints.find(step)
        state = jax.eval_shape(lambda: init_state(run.init_trainable(), run.config.optimizer, train.steps))
        return Trained(checkpoints.restore(found, abstract(state, run.mesh)).trainable, found)
    finally:
        checkpoints.close()
