"""Do two curves of the loss coincide? The first steps to rounding, the later ones within what the seed alone causes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import combinations

import numpy as np

WINDOW = 20


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Differences and bounds, step by step and window by window.

    Args:
      early: (steps,) how far Flax is from the truth, the loss in float64.
      early_bound: (steps,) how far it may be.
      windows: (windows,) the first step of each.
      later: (windows,) how far Flax is from torch, root mean square over a window.
      later_bound: (windows,) how far two of torch's runs with different seeds are.
    """

    early: np.ndarray
    early_bound: np.ndarray
    windows: np.ndarray
    later: np.ndarray
    later_bound: np.ndarray

    @property
    def early_ratio(self) -> float:
        return float(np.max(self.early / self.early_bound))

    @property
    def later_ratio(self) -> float:
        return float(np.max(self.later / self.later_bound, initial=0))

    @property
    def passed(self) -> bool:
        """A NaN does not pass."""
        return self.early_ratio <= 1 and self.later_ratio <= 1

    @property
    def words(self) -> str:
        steps = len(self.early)
        lines = [
            f"first {steps} steps: largest difference / rounding's bound {self.early_ratio:.2g}"
            + ("" if self.early_ratio <= 1 else f", above 1 from step {_first(self.early, self.early_bound)}"),
            f"later: largest difference / spread of the seeds {self.later_ratio:.2g}"
            + (
                ""
                if self.later_ratio <= 1
                else f", above 1 from step {self.windows[_first(self.later, self.later_bound)]}"
            ),
        ]
        return "\n".join(lines)


def judge(curves: Mapping[str, np.ndarray], flax: str, early: int) -> Verdict:
    """The verdict over curves by their runs' names, `flax` the name of Flax's.

    The bound on the first steps is parity's own, for any module: |Flax - truth| <= 2 |torch - truth| + 6 spread. The
    truth is the curve in float64, the spread that of torch's runs whose weights are nudged by their rounding before
    each step: at least the rounding of the loss itself, which is a float32. Errors of earlier steps stay in the
    weights, so each step counts with the largest so far.

    >>> line = np.ones(30)
    >>> curves = {"torch": line, "flax": line, "float64": line, "nudged-1": line, "seed-1": line + 0.1, "seed-2": line}
    >>> judge(curves, "flax", early=20).passed
    True
    """
    truth = curves["float64"][:early]

    def error(name: str) -> np.ndarray:
        return np.maximum.accumulate(np.abs(curves[name][:early] - truth))

    nudged = np.stack([error(name) for name in curves if name.startswith("nudged")])
    rounding = np.maximum.accumulate(np.finfo(np.float32).eps / 2 * np.abs(truth))
    spread = np.maximum(np.sqrt(np.mean(nudged**2, 0)), rounding)

    starts = np.arange(early, len(curves["torch"]), WINDOW)
    seeds = [curves["torch"], *(curve for name, curve in curves.items() if name.startswith("seed"))]
    pairs = [one - other for one, other in combinations(seeds, 2)]
    return Verdict(
        early=np.abs(curves[flax][:early] - truth),
        early_bound=2 * error("torch") + 6 * spread,
        windows=starts,
        later=_by_window([curves[flax] - curves["torch"]], starts),
        later_bound=_by_window(pairs, starts),
    )


def _by_window(differences: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
    squares = np.mean(np.square(differences), 0)
    return np.sqrt([np.mean(squares[start : start + WINDOW]) for start in starts])


def _first(difference: np.ndarray, bound: np.ndarray) -> int:
    return int(np.argmax(~(difference <= bound)))
