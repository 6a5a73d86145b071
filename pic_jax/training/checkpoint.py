"""Orbax checkpoints of the trained state; the frozen base is never stored."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from pic_jax.errors import PicJaxError
from pic_jax.run import Run
from pic_jax.training import weights
from pic_jax.training.step import init_state

MAX_LISTED = 8


class Checkpoints:
    """The `checkpoints/` folder of a workdir. Saves are asynchronous and atomic."""

    def __init__(self, folder: Path, keep: int):
        """Opens or creates the folder; the newest `keep` checkpoints are preserved.

        Raises:
          PicJaxError: the folder cannot be made.
        """
        self.folder = folder
        options = ocp.CheckpointManagerOptions(preservation_policy=LatestN(keep), enable_async_checkpointing=True)
        try:
            self._manager = ocp.CheckpointManager(
                folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        except OSError as error:
            raise PicJaxError(f'{folder}: cannot be used for checkpoints ({error.strerror})') from error

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts saving; the state may be donated to the next step at once."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """The saved state, for a tree of arrays or abstract shapes like it.

        Raises:
          PicJaxError: keys, shapes or dtypes differ (named both ways), or the files are unreadable.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            saved = self._manager.item_metadata(step)
            self._check(step, _leaves(saved), _leaves(abstract))
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except PicJaxError:
            raise
        except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PicJaxError(f'{self.folder}/{step}: cannot be restored ({reason})') from error

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


def _leaves(tree: Any) -> dict[str, str]:
    """Path -> 'dtype[shape]'. Orbax gives tuples back as mappings, so only names and numbers of the path count."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, 'shape'))
    return {
        '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path):
        f'{leaf.dtype}{list(leaf.shape)}'
        for path, leaf in leaves
    }  # fmt: skip


def newest_step(run: Run, workdir: Path) -> int | None:
    """The step of the parameters that `restore_trainable` reads; None where the workdir has no checkpoint."""
    if (workdir / weights.NAME).is_file() or not (workdir / 'checkpoints').is_dir():
        return None
    checkpoints = Checkpoints(workdir / 'checkpoints', run.config.train.keep_checkpoints)
    try:
        return checkpoints.latest_step
    finally:
        checkpoints.close()


def restore_trainable(run: Run, workdir: Path) -> Any:
    """The trained parameters in a run's workdir: its newest checkpoint, or the file of weights that it holds instead.

    Raises:
      PicJaxError: there is no checkpoint, or it does not fit.
    """
    if (workdir / weights.NAME).is_file():
        return weights.read_weights(workdir, jax.eval_shape(run.init_trainable))
    if not (workdir / 'checkpoints').is_dir():
        raise PicJaxError(f'{workdir} has no checkpoint yet: train first')
    config = run.config
    checkpoints = Checkpoints(workdir / 'checkpoints', config.train.keep_checkpoints)
    try:
        step = checkpoints.latest_step
        if step is None:
            raise PicJaxError(f'{workdir} has no checkpoint yet: train first')
        state = init_state(run.init_trainable(), config.optimizer, config.train.steps)
        return checkpoints.restore(step, state).trainable
    finally:
        checkpoints.close()
