"""The stated ratios: a table, one line to add a goal. `parity bench --check` exits 1 where one is missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from parity.bench.results import OURS, Race, Verdict
from parity.bench.rows import BOTH, FORWARD, MODES, Row
from parity.bench.statistics import geometric_mean
from parity.criterion import DEPARTURE_FACTOR

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Speed:
    """`ours/auto` is `least` times as fast as the best peer that matches `against`, over all rows that `rows` takes:
    their geometric mean, or the worst one."""

    device: str
    dtype: str
    mode: str
    against: str
    over: str
    least: float
    rows: Callable[[Row], bool] = lambda row: True
    about: str = ""

    @property
    def name(self) -> str:
        about = f", {self.about}" if self.about else ""
        return f"{self.device} {self.dtype} {self.mode}{about}: against {self.against}, {self.over}"

    def judge(self, races: Sequence[Race]) -> Verdict:
        ratios: list[tuple[float, str]] = []
        for race in races:
            ours, peer = race.get(OURS), race.best_peer(self.against)
            if ours is None or peer is None or not self._is_about(race):
                continue
            # One that could not do the row at all is infinitely slow.
            ratios.append((race.ratio(ours, self.against) or 0.0, race.row.name))
        stated = f">= {self.least:.2f}x"
        if not ratios:
            return Verdict(self.name, stated, "", None)
        worst, where = min(ratios)
        figure = geometric_mean([ratio for ratio, _ in ratios]) if self.over == "geometric mean" else worst
        words = f"{figure:.2f}x over {len(ratios)} row{'s' if len(ratios) > 1 else ''}; worst {worst:.2f}x, {where}"
        return Verdict(self.name, stated, words, figure >= self.least)

    def _is_about(self, race: Race) -> bool:
        row = race.row
        return row.kind == "bench" and race.mode == self.mode and row.dtype == self.dtype and self.rows(row)


def _memory(races: Sequence[Race], length: int) -> int | None:
    """Bytes beyond inputs and results of forward+backward at (1, 8, length, 64) in float32, not causal."""
    for race in races:
        a, ours = race.row.attention, race.get(OURS)
        size = (a.batch, a.heads, a.q_len, a.kv_len, a.head_dim, a.dtype, a.causal, a.bias)
        if race.mode == BOTH and size == (1, 8, length, length, 64, "float32", False, None) and ours is not None:
            return ours.memory
    return None


@dataclasses.dataclass(frozen=True)
class Doubling:
    """Twice the length takes at most twice the memory."""

    most: float = 2.0
    device: str | None = "cpu"
    name: str = "cpu float32 memory of forward+backward: (1,8,4096,64) over (1,8,2048,64)"

    def judge(self, races: Sequence[Race]) -> Verdict:
        short, long = _memory(races, 2048), _memory(races, 4096)
        stated = f"<= {self.most:.2f}x"
        if short is None or long is None:
            return Verdict(self.name, stated, "", None)
        figure = f"{long / max(short, 1):.2f}x: {short / MIB:.1f} to {long / MIB:.1f} MiB"
        return Verdict(self.name, stated, figure, long <= self.most * short)


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """Memory stays under a number of MiB."""

    most: float = 100.0
    device: str | None = "cpu"
    name: str = "cpu float32 memory of forward+backward: (1,8,4096,64)"

    def judge(self, races: Sequence[Race]) -> Verdict:
        taken = _memory(races, 4096)
        stated = f"< {self.most:g} MiB"
        if taken is None:
            return Verdict(self.name, stated, "", None)
        return Verdict(self.name, stated, f"{taken / MIB:.1f} MiB", taken < self.most * MIB)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A fast wrong answer meets no goal: ours stays an honest computation in its dtype on every row."""

    most: float = DEPARTURE_FACTOR
    device: str | None = None
    name: str = "error of every ours/*, in roundings"

    def judge(self, races: Sequence[Race]) -> Verdict:
        found = [
            (error.roundings, f"{error.quantity}, {measurement.contender}, {race.row.name}")
            for race in races
            for measurement in race.measurements
            if measurement.contender.startswith("ours/")
            for error in measurement.errors
        ]
        stated = f"<= {self.most:g}"
        if not found:
            return Verdict(self.name, stated, "", None)
        worst, where = max(found, key=lambda pair: (pair[0] != pair[0], pair[0]))  # a NaN is the worst
        return Verdict(self.name, stated, f"{worst:.2f}: {where}", worst <= self.most)


def _long(row: Row) -> bool:
    return row.attention.kv_len >= 1024


def _not_tiny(row: Row) -> bool:
    return not row.tiny


def _tiny(row: Row) -> bool:
    return row.tiny


_MEAN, _WORST = "geometric mean", "worst row"
GOALS: tuple[Speed | Doubling | Ceiling | Accuracy, ...] = (
    *(Speed("cpu", "float32", mode, "torch/sdpa", _MEAN, 1.2) for mode in MODES),
    *(Speed("cpu", "float32", mode, "torch/sdpa", _WORST, 0.85) for mode in MODES),
    *(Speed("cpu", "float32", mode, "jax.nn/*", _MEAN, 3.0, _long, "n >= 1024") for mode in MODES),
    Doubling(),
    Ceiling(),
    Speed("gpu", "bfloat16", FORWARD, "torch/*", _WORST, 0.97, _not_tiny, "n > 64"),
    Speed("gpu", "bfloat16", BOTH, "torch/*", _WORST, 0.95, _not_tiny, "n > 64"),
    *(Speed("gpu", "bfloat16", mode, "torch/*", _WORST, 2.0, _tiny, "n <= 64") for mode in MODES),
    Speed("gpu", "float32", FORWARD, "torch/sdpa-efficient", _WORST, 1.0),
    Speed("gpu", "float32", BOTH, "torch/sdpa-efficient", _WORST, 1.1),
    *(Speed("gpu", dtype, mode, "jax.nn/xla", _WORST, 1.0) for dtype in ("bfloat16", "float32") for mode in MODES),
    Accuracy(),
)


def judge(device: str, races: Sequence[Race]) -> tuple[Verdict, ...]:
    """Every goal that is about this device, in the table's order."""
    return tuple(goal.judge(races) for goal in GOALS if goal.device in (None, device))
