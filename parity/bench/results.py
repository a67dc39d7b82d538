"""What a bench run found: frozen data, from which the tables, the plot, the JSON and the verdict are made."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping

from parity.bench.accuracy import Error
from parity.bench.rows import Row
from parity.bench.statistics import Summary, speedup, summarize

OURS = "ours/auto"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One contender on one row in one mode.

    `status`: "timed"; "inspected", if only its memory was asked for; "refused", where it says itself that it cannot;
    "skipped", where we did not let it try; "raised" and "lost" (it died or took too long). `words` says why.
    `counts`: somebody else's and does all that is asked, so that it may be the best peer.
    """

    contender: str
    status: str
    words: str = ""
    runs: str = ""
    note: str = ""
    counts: bool = False
    samples: tuple[float | None, ...] = ()
    calls: int = 0
    memory: int | None = None
    memory_by: str = ""
    errors: tuple[Error, ...] = ()

    @property
    def summary(self) -> Summary | None:
        return summarize(self.samples)


@dataclasses.dataclass(frozen=True)
class Race:
    """All contenders on one row in one mode."""

    row: Row
    mode: str
    measurements: tuple[Measurement, ...]

    def get(self, contender: str) -> Measurement | None:
        return next((found for found in self.measurements if found.contender == contender), None)

    def best_peer(self, glob: str = "*") -> Measurement | None:
        """The peer with the smallest median among those that count and match."""
        peers = [
            (found.summary.median, found)
            for found in self.measurements
            if found.counts and found.summary is not None and fnmatch.fnmatchcase(found.contender, glob)
        ]
        return min(peers, key=lambda pair: pair[0])[1] if peers else None

    def ratio(self, measurement: Measurement, glob: str = "*") -> float | None:
        """How many times faster than the best peer."""
        peer = self.best_peer(glob)
        return None if peer is None else speedup(peer.samples, measurement.samples)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a goal. `met` is None where nothing that was measured is about it."""

    goal: str
    stated: str
    figure: str
    met: bool | None


@dataclasses.dataclass(frozen=True)
class BenchReport:
    """A whole run."""

    environment: Mapping[str, str]
    command: str
    device: str
    seed: int
    repeats: int
    races: tuple[Race, ...]
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0
    interrupted: bool = False
    check: bool = False

    @property
    def exit_code(self) -> int:
        """130 interrupted; with --check 1 a goal is missed, 4 none could be judged; 4 nothing was measured; else 0."""
        from parity.results import EXIT_INTERRUPTED, EXIT_MISMATCH, EXIT_NOTHING

        if self.interrupted:
            return EXIT_INTERRUPTED
        measured = any(found.status in ("timed", "inspected") for race in self.races for found in race.measurements)
        if not measured:
            return EXIT_NOTHING
        if not self.check:
            return 0
        judged = [verdict.met for verdict in self.verdicts if verdict.met is not None]
        if not judged:
            return EXIT_NOTHING
        return 0 if all(judged) else EXIT_MISMATCH
