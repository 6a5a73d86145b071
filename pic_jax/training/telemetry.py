"""What a record says of the hardware and of the health of a run: rates, MFU, memory, loss spikes."""

import resource
import statistics
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from pic_jax.hardware import peak_flops
from pic_jax.training.writers import Record

# How the names of the fields end that are measured on the machine. All others are the same in every run of the same
# settings on the same machine, also where it was killed and resumed.
MEASURED = ('_s', '_bytes', 'mfu')
# Of the losses that a new one is compared with: how many, at least how many, and how far above is a spike.
_HISTORY, _LEAST, _DEVIATIONS, _SHARE = 16, 8, 9.0, 0.1


class Clock:
    """The MEASURED fields of train records.

    `mfu` (model FLOPs utilisation; PaLM, arXiv 2204.02311, appendix B) = operations of the steps / (seconds * peak
    bfloat16 operations per second of all devices). The operations are those of the matrix products of the training
    step, forward and backward, without recomputed layers (evaluation.flops.count_flops): what has no gradient, as
    frozen weights, counts forward and for the gradient of its input only. Attention in blocks counts for all pairs of
    its blocks, masked or not, and for the scores that its backward pass computes again.
    """

    def __init__(self, devices: np.ndarray):
        """Args: all devices of the run."""
        peak = peak_flops(devices.flat[0])
        self._peak = peak and peak * devices.size
        self.restart()

    def restart(self) -> None:
        """Starts a new lap."""
        self._time, self._tokens, self._flops, self._fetched = time.perf_counter(), 0, 0.0, 0.0

    def fetched(self, seconds: float) -> None:
        """Seconds that making and placing a batch took."""
        self._fetched += seconds

    def worked(self, tokens: int, flops: float) -> None:
        """A step has finished: real tokens in its batch, and its operations."""
        self._tokens, self._flops = self._tokens + tokens, self._flops + flops

    def lap(self) -> dict[str, Any]:
        """`elapsed_s`, `tokens_per_s`, `flops_per_s`, `input_s`, `peak_bytes` and, of known devices, `mfu`."""
        seconds = max(time.perf_counter() - self._time, 1e-9)
        fields = {
            'elapsed_s': round(seconds, 3),
            'tokens_per_s': round(self._tokens / seconds, 1),
            'flops_per_s': float(f'{self._flops / seconds:.4g}'),
            'input_s': round(self._fetched, 6),
            'peak_bytes': peak_bytes(),
        }
        if self._peak:
            fields['mfu'] = round(self._flops / seconds / self._peak, 4)
        self.restart()
        return fields

    def formula(self, flops: float) -> str:
        """How `mfu` comes about, in a line.

        Args:
          flops: of one step.
        """
        step = f'{flops:.4g} FLOPs (matrix products, forward and backward, no layer recomputed)'
        if not self._peak:
            return f'{step}; no mfu: the peak of this device is not known'
        return f'{step}; mfu = FLOPs / (seconds * {self._peak:.4g} FLOP/s, the bfloat16 peak of all devices)'


def peak_bytes() -> int:
    """The most memory in use so far: of the first device, or of this process where devices do not tell (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and 'peak_bytes_in_use' in stats:
        return int(stats['peak_bytes_in_use'])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


class Spikes:
    """Notices losses that lie far above those in the records before them.

    A spike is more than 9 median absolute deviations, and more than a tenth, above the median of the last 16 losses at
    the same ratio. Before there are 8, nothing is one. Its own record counts in the next median, so that a loss which
    stays high is soon none any more.
    """

    def __init__(self, records: Iterable[Record]):
        """Args: records before the first one to come."""
        self._losses: dict[int, list[float]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """One more record to compare with, if it is of training and has a loss."""
        if record['split'] == 'train' and 'loss' in record:
            ratio = record.get('ratio', 0)
            self._losses[ratio] = [*self._losses.get(ratio, []), record['loss']][-_HISTORY:]

    def high(self, record: Record) -> bool:
        """Whether this record's loss is a spike."""
        losses = self._losses.get(record.get('ratio', 0), [])
        if len(losses) < _LEAST:
            return False
        middle = statistics.median(losses)
        deviation = statistics.median(abs(each - middle) for each in losses)
        return record['loss'] - middle > max(_DEVIATIONS * deviation, _SHARE * abs(middle))


def tokens_in(batch: dict[str, Any]) -> int:
    """Real context tokens and target tokens of a batch."""
    groups = [value for value in batch.values() if isinstance(value, dict)]
    targets = sum(int(mask.sum()) for group in groups for mask in group.values() if mask.dtype == bool)
    return targets + int(np.sum(batch.get('context_length', 0)))
