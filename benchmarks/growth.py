"""A line through samples of something that should not grow, and how sure its slope is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

BLOCKS, LEAST = 20, 3


class Slope(NamedTuple):
    """Growth per unit of x, its standard error, and the ends of its 95% interval."""

    rate: float
    error: float
    low: float
    high: float


def slope(x: Sequence[float], values: Sequence[float], middle: Callable[..., float] = np.median) -> Slope:
    """Least squares through the middles of at most 20 equal parts of the samples.

    Samples that follow each other are alike, so that a line through all of them would look surer than it is.

    Args:
      x: where the samples were taken, ascending, such as hours.
      middle: of a part. The median passes over what comes and goes, such as the buffers of a save.

    Raises:
      ValueError: there are fewer than 3 samples.
    """
    if len(x) < LEAST:
        raise ValueError(f'{len(x)} samples: expected at least {LEAST}')
    parts = np.array_split(np.arange(len(x)), min(BLOCKS, len(x)))
    places = np.array([np.mean(np.asarray(x)[part]) for part in parts])
    middles = np.array([middle(np.asarray(values)[part]) for part in parts])
    places -= places.mean()
    spread, freedom = places @ places, len(parts) - 2
    rate = places @ middles / spread
    left = middles - middles.mean() - rate * places
    error = np.sqrt(left @ left / freedom / spread)
    margin = student.ppf(0.975, freedom) * error
    return Slope(*(round(float(each), 4) for each in (rate, error, rate - margin, rate + margin)))
