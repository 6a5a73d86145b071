"""The least time that the hardware could take for a program: an estimate, not a measurement."""

from collections.abc import Sequence
from typing import NamedTuple

from pic_jax.hardware import Chip
from pic_jax.planning.collectives import Collective, group_size


class Roofline(NamedTuple):
    """Seconds at full speed of each unit: matrix products, main memory, links between chips. None: not known."""

    compute: float
    hbm: float | None
    ici: float | None

    @property
    def seconds(self) -> float:
        """The largest of the three, as if they overlapped wholly."""
        return max(term for term in self if term is not None)

    @property
    def bound(self) -> str:
        """Which one that is."""
        return max((term, name) for name, term in self._asdict().items() if term is not None)[1]


def roofline(chip: Chip, flops: float, hbm_bytes: int | None, found: Sequence[Collective]) -> Roofline:
    """Args: operations and bytes of one device, and the program's collectives."""
    known = [each.count * link_seconds(chip, each) for each in found if each.count is not None]
    ici = sum(known) if len(known) == len(found) else None
    return Roofline(flops / chip.flops, None if hbm_bytes is None else hbm_bytes / chip.hbm_bandwidth, ici)


def link_seconds(chip: Chip, collective: Collective) -> float:
    """Seconds of one collective on a ring of its group along one axis of the torus, with both directions of the ring.

    An all-gather of V bytes brings V (n - 1) / n to every device over two links, a reduce-scatter takes as long, an
    all-reduce is both. An all-to-all moves each block a quarter of the ring on average, a permutation uses one link.
    Groups that lie along several axes of the torus can be faster, those whose axis is no closed ring slower.
    """
    n, size = group_size(collective), collective.bytes
    link = chip.ici_bandwidth / chip.ici_ports / 2  # one direction
    ring = size * (n - 1) / n / (2 * link)
    if collective.kind == 'all-reduce':
        return 2 * ring
    if collective.kind in ('all-to-all', 'ragged-all-to-all'):
        return size * n / 4 / (2 * link)
    return size / link if collective.kind == 'collective-permute' else ring
