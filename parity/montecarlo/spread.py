"""Noisy runs -> how far rounding carries each result. Runs in the torch worker."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from parity.mapped import rest
from parity.montecarlo.noise import Noise
from parity.montecarlo.results import Rounding, Spread, bound
from parity.montecarlo.widths import RULES

__all__ = ["Ahead", "Rounding", "Spread", "bound", "spread"]

# A row shorter than this says too little of its own size, eight runs of a few elements: it is joined with the next.
ROW = 8
# Of its row's root mean square, what an element's spread is at least.
FLOOR = 0.5
# Noisy runs: a spread estimated from 8 is itself 25 % off, which its factor of 6 allows for.
RUNS = 8
# Elements whose errors are added up at a time.
BLOCK = 1 << 18
# What two float64 runs may differ by, of what the rounding that is judged does.
REPEATS = 1e-3


def spread(
    run: Callable[..., Mapping[str, torch.Tensor]],
    truth: Mapping[str, np.ndarray],
    rounding: Rounding,
    *,
    runs: int = RUNS,
    seed: int = 0,
    ahead: bool = False,
) -> Spread:
    """How far arithmetic of a given rounding may carry each result of a float64 computation.

    `run()` performs the whole computation anew, forward and backward, on exact inputs, and returns named float64 (or
    integer, or boolean) tensors: the same ones each time, as it does without noise, where they are `truth`. It is
    called 1 + `runs` times. Whatever it draws from torch's own generators it must seed itself; the noise has its own.
    With `ahead` it is called with an `Ahead`, to which it may give results as soon as it has them, instead of
    returning them.

    Raises ValueError if it returns other names or shapes than `truth`, or other numbers each time.
    """
    if runs < 2:
        raise ValueError(f"expected `runs` of at least 2, got {runs}")
    with _in_simple_ops():
        recording = Noise(RULES, Rounding(0.0, 0.0))
        apart: dict[str, np.ndarray] = {}
        shapes: dict[str, tuple[int, ...]] = {}

        def repeated(name: str, tensor: torch.Tensor) -> None:
            shapes[name] = tuple(tensor.shape)
            if name in truth and shapes[name] == truth[name].shape and _real(tensor):
                found = _apart(tensor, truth[name])
                if _far(found, truth[name], rounding, 0.0):  # whether it is too far, the widths will tell
                    apart[name] = found

        _each(run, recording, repeated, ahead)
        _check(shapes, truth)
        squares: dict[str, torch.Tensor] = {}
        uncertain: dict[str, np.ndarray] = {}
        unruled: Counter[str] = Counter()
        flips: dict[int, tuple[str, torch.Tensor]] = {}
        for number in range(runs):
            noise = Noise(RULES, rounding, seed * 1_000_003 + number, recording)

            def add(name: str, tensor: torch.Tensor, noise: Noise = noise) -> None:
                expected = torch.as_tensor(truth[name], device=tensor.device)
                if _real(tensor):
                    if name not in squares:
                        squares[name] = _zeros(tensor, expected)
                    _add_squared_error(squares[name], tensor, expected, noise.deviations.of(tensor))
                else:
                    other = (tensor != expected).cpu().numpy()
                    uncertain[name] = uncertain.get(name, np.zeros_like(other)) | other

            _each(run, noise, add, ahead)
            rest(truth)
            unruled |= noise.unruled
            for place, (name, other_way) in noise.flips.items():
                before = flips.get(place, (name, other_way))[1]
                flips[place] = name, before | other_way if before.shape == other_way.shape else other_way
    counts: Counter[str] = Counter()
    for name, other_way in flips.values():
        counts[name] += int(other_way.sum())
    widths = {name: _floored(squares.pop(name).div_(runs).sqrt_().cpu().numpy()) for name in list(squares)}
    _check_repeats(apart, truth, widths, rounding)
    return Spread(widths, uncertain, dict(unruled), dict(counts), runs)


class Ahead:
    """What a run gives its results to while it is under way, so that they need not be there all at once."""

    def __init__(self, take: Callable[[str, torch.Tensor], None]) -> None:
        self._take = take
        self.taken: set[str] = set()

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Take a result, and return a tensor of its shape and dtype that holds next to nothing."""
        with _disable_current_modes():
            self._take(name, tensor.detach())
            self.taken.add(name)
            return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def _each(
    run: Callable[..., Mapping[str, torch.Tensor]], noise: Noise, take: Callable[[str, torch.Tensor], None], ahead: bool
) -> None:
    """Give each result of a run to `take`, as early as may be."""
    with noise:
        results = dict(run(Ahead(take)) if ahead else run())
    for name in list(results):
        take(name, results.pop(name).detach())  # its memory, and its deviation's, is wanted by the next


def _real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _apart(tensor: torch.Tensor, truth: np.ndarray) -> np.ndarray:
    """How far a run without noise is from the truth."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(tensor.detach().cpu().numpy() - truth).astype(np.float32)


def _zeros(tensor: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """In float64, laid out as their difference is: rows are added up in the order in which they lie in memory."""
    difference = tensor - truth
    return (difference.abs() if difference.is_complex() else difference).to(torch.float64).zero_()


def _add_squared_error(
    total: torch.Tensor, tensor: torch.Tensor, truth: torch.Tensor, deviation: torch.Tensor | None
) -> None:
    """Add (run - truth)², and the variance of the result's own rounding, which no later op has drawn: in blocks, for a
    tensor of a hundred million numbers would take ten times its memory for a moment."""
    rows = max(1, BLOCK * tensor.shape[0] // max(1, tensor.numel())) if tensor.dim() else 1
    for start in range(0, tensor.shape[0] if tensor.dim() else 1, rows):
        block = slice(start, start + rows) if tensor.dim() else ...
        one, right = tensor[block], truth[block]
        error = (one - right).abs().to(torch.float64)
        # NaN and inf stand where they stand in the truth, or a noisy run shows that rounding can put them there.
        alike = (one == right) | (torch.isnan(one) & torch.isnan(right))
        error = torch.where(alike, 0.0, torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)).square()
        if deviation is not None:
            error += deviation[block].abs().to(torch.float64).square()
        total[block].add_(error)


def _floored(spread: np.ndarray) -> np.ndarray:
    """At least half the root mean square of the row: the last axis, or as many as it takes to have enough elements."""
    axes, count = [], 1
    for axis in reversed(range(spread.ndim)):
        if count >= ROW:
            break
        axes.append(axis)
        count *= spread.shape[axis]
    if not spread.size or not axes:
        return _up(spread)
    mean = np.mean(np.square(spread), axis=tuple(axes), keepdims=True, where=np.isfinite(spread))
    return _up(np.maximum(spread, FLOOR * np.sqrt(mean)))


def _up(spread: np.ndarray) -> np.ndarray:
    """In float32, and no smaller."""
    with np.errstate(over="ignore", under="ignore"):
        found = spread.astype(np.float32)
    return np.nextafter(found, np.float32(np.inf), out=found, where=found < spread)


@contextlib.contextmanager
def _in_simple_ops() -> Iterator[None]:
    """No fused recurrent or encoder kernels, which the mode could not look into."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _check(shapes: Mapping[str, tuple[int, ...]], truth: Mapping[str, np.ndarray]) -> None:
    if set(shapes) != set(truth):
        raise ValueError(f"expected `run` to return {sorted(truth)}, as in `truth`, got {sorted(shapes)}")
    for name, shape in shapes.items():
        if shape != truth[name].shape:
            raise ValueError(f"expected `{name}` of shape {truth[name].shape}, as in `truth`, got {shape}")


def _check_repeats(
    apart: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], widths: Mapping[str, np.ndarray], by: Rounding
) -> None:
    """Without noise a run must give the truth: far below what noise does to it, or below u of its largest number.

    Not to the bit: ops were taken apart, so it is float64's rounding that differs, 2**-29 of float32's.
    """
    for name, error in apart.items():
        if _far(error, truth[name], by, widths[name]):
            raise ValueError(
                f"expected `run` to give `truth` when there is no noise, got other numbers for `{name}`. Is it random, "
                "or does it change its inputs, parameters or buffers? Seed it, and give it fresh copies"
            )


def _far(apart: np.ndarray, truth: np.ndarray, by: Rounding, width: np.ndarray | float) -> bool:
    """Whether a run without noise is further from the truth than its rounding, or a width, has an excuse for."""
    if not truth.size:
        return False
    finite = np.isfinite(apart)
    largest = np.max(np.abs(truth), initial=0, where=finite)
    return bool(np.any(finite & (apart > REPEATS * np.maximum(width, by.unit * largest))))
