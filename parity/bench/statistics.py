"""Samples -> numbers. Samples are seconds, one a round in the order of rounds; None where a contender sat one out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Samples = Sequence[float | None]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Seconds a call. Half of the samples lie between the quartiles."""

    median: float
    lower: float
    upper: float
    count: int

    @property
    def spread(self) -> float:
        """The interquartile range as a fraction of the median."""
        return (self.upper - self.lower) / self.median


def summarize(samples: Samples) -> Summary | None:
    """None if there is no sample."""
    taken = [sample for sample in samples if sample is not None]
    if not taken:
        return None
    lower, median, upper = np.percentile(taken, [25, 50, 75])
    return Summary(float(median), float(lower), float(upper), len(taken))


def speedup(theirs: Samples, ours: Samples) -> float | None:
    """How many times faster ours is: the median over the rounds of their time over ours in the same round.

    The two samples of a round lie seconds apart, so what slows the machine for longer than that slows both; the ratio
    of two medians, taken in different rounds perhaps, would keep it. None if they have no round in common.
    """
    ratios = [t / o for t, o in zip(theirs, ours, strict=False) if t is not None and o is not None]
    return float(np.median(ratios)) if ratios else None


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios: that of twice and half as fast is 1."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if min(ratios) > 0 else 0.0
