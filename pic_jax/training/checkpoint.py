"""Orbax checkpoints of the trained state; of the frozen base only its identity is kept."""

import contextlib
from collections.abc import Sequence
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

from pic_jax.errors import PicJaxError
from pic_jax.run import Run
from pic_jax.training import weights
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
        best = max(scored, key=self.scores.get, default=None)
        return [info.step == best for info in checkpoints]


class Checkpoints:
    """The `checkpoints/` folder of a workdir. Saves are asynchronous and atomic; all processes take part."""

    def __init__(self, folder: Path, keep: int, base: str = ''):
        """Opens or creates the folder; the newest `keep` checkpoints and the best one are preserved.

        Args:
          base: identity of the frozen parameters (`identity`) that the states belong to.

        Raises:
          PicJaxError: the folder cannot be made.
        """
        self.folder, self._base, self._best = folder, base, KeepBest()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]), enable_async_checkpointing=True
        )
        try:
            self._manager = ocp.CheckpointManager(
                folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        except OSError as error:
            raise PicJaxError(f'{folder}: cannot be used for checkpoints ({error.strerror})') from error
        for step in self._manager.all_steps():
            with contextlib.suppress(Exception):  # damaged: no best; `restore` says why
                self._best.scores[step] = self._metadata(step)['score']

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def find(self, step: int | str) -> int:
        """The step of a saved checkpoint: that number, the newest (`latest`) or the one that is best by its score.

        Raises:
          PicJaxError: there is none, or not this one.
        """
        saved = self._manager.all_steps()
        if not saved:
            raise PicJaxError(f'{self.folder.parent} has no checkpoint yet: train first')
        scores = {each: self._best.scores[each] for each in saved if each in self._best.scores}
        if step == BEST and scores:
            return max(scores, key=scores.get)
        if step == LATEST:
            return max(saved)
        if step not in saved:
            names = [*map(str, sorted(saved)), LATEST, *([BEST] if scores else [])]
            raise PicJaxError(f'step={step} is not valid: {self.folder} has {", ".join(names)}')
        return step

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Starts saving; the state may be donated to the next step at once.

        Args:
          score: how good it is, higher is better; None where it was not measured.
        """
        metadata = {'base': self._base}
        if score is not None:
            self._best.scores[step] = metadata['score'] = score
        self._manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=metadata)

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
        try:
            saved = self._manager.item_metadata(step)
            self._check(step, described(saved), described(wanted))
            self._check_base(step, self._metadata(step).get('base', ''))
            return self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except PicJaxError:
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PicJaxError(f'{self.folder}/{step}: cannot be restored ({reason})') from error

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

    def close(self) -> None:
        """Waits and releases the folder."""
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
      PicJaxError: the record has no such field.
    """
    if not metric:
        return None
    if metric not in record:
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
      PicJaxError: there is no such checkpoint, or it does not fit.
    """
    if (workdir / weights.NAME).is_file():
        if step != LATEST:
            raise PicJaxError(
                f'step={step} is not valid: {workdir} holds weights only ({weights.NAME}), no checkpoints'
            )
        return Trained(weights.read_weights(workdir, jax.eval_shape(run.init_trainable)), None)
    if not (workdir / 'checkpoints').is_dir():
        raise PicJaxError(f'{workdir} has no checkpoint yet: train first')
    train = run.config.train
    checkpoints = Checkpoints(workdir / 'checkpoints', train.keep_checkpoints, identity(run.base, run.decoder.config))
    try:
        found = checkpoints.find(step)
        state = jax.eval_shape(lambda: init_state(run.init_trainable(), run.config.optimizer, train.steps))
        return Trained(checkpoints.restore(found, abstract(state, run.mesh)).trainable, found)
    finally:
        checkpoints.close()
