"""Records of a run, sent to experiment trackers beside metrics.jsonl."""

import importlib.util
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pic_jax.errors import ConfigError, PicJaxError
from pic_jax.files import write_text
from pic_jax.training.writers import Metrics, Record

_PACKAGES = {'tensorboard': 'tensorboardX', 'wandb': 'wandb'}
NAMES = tuple(_PACKAGES)


class Tracker(Metrics, Protocol):
    """Takes records, and is ended."""

    def close(self) -> None:
        """Sends what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that cannot be used.

    Raises:
      ConfigError: there is no such tracker. PicJaxError: its package is not installed.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(f'--log_to={name} is not valid: expected some of {", ".join(NAMES)}')
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise PicJaxError(f'--log_to={name} needs {_PACKAGES[name]}: pip install "pic_jax[{name}]"')


def make_tracker(name: str, workdir: Path, settings: dict[str, Any], start: int) -> Tracker:
    """The tracker of that name; it goes on where an earlier run of the workdir saved its checkpoint.

    Args:
      settings: of the run, for those that keep them.
      start: the step of that checkpoint, or 0.
    """
    return TensorBoard(workdir, start) if name == 'tensorboard' else WeightsAndBiases(workdir, settings)


class TensorBoard:
    """Event files in WORKDIR/tensorboard, at most a second behind.

    What a resumed run had written past its checkpoint is purged.
    """

    def __init__(self, workdir: Path, start: int):
        """See `make_tracker`."""
        from tensorboardX import SummaryWriter

        # Files are named by the second: a resume in the same one must not overwrite the first.
        self._writer = SummaryWriter(
            str(workdir / 'tensorboard'),
            purge_step=start + 1 if start else 0,
            filename_suffix=f'.after{start}',
            flush_secs=1,
        )

    def write(self, record: Record) -> None:
        """One scalar for every number, named split/field."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record['step'])

    def close(self) -> None:
        """Flushes what is left."""
        self._writer.close()


class WeightsAndBiases:
    """One W&B run per workdir; project, mode and key come from its own variables (WANDB_PROJECT, WANDB_MODE, ...)."""

    def __init__(self, workdir: Path, settings: dict[str, Any]):
        """See `make_tracker`. The run's id is kept in WORKDIR/wandb_id."""
        import wandb

        path = workdir / 'wandb_id'
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + '\n')
        try:
            self._run = wandb.init(
                id=path.read_text().strip(), resume='allow', name=workdir.name, dir=str(workdir), config=settings
            )
        except wandb.Error as error:
            raise PicJaxError(f'--log_to=wandb: {error}') from error
        # W&B's own counter only grows, and a resumed run starts at its checkpoint: `step` is a field like others.
        self._run.define_metric('*', step_metric='step')

    def write(self, record: Record) -> None:
        """The numbers of a record at its step."""
        self._run.log({'step': record['step'], **_numbers(record)})

    def close(self) -> None:
        """Ends the run, which uploads what is left."""
        self._run.finish()


def _numbers(record: Record) -> dict[str, float]:
    fields = {name: value for name, value in record.items() if name not in ('step', 'split')}
    return {f'{record["split"]}/{name}': value for name, value in fields.items() if isinstance(value, int | float)}
