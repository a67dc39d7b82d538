"""What a run found: frozen data, from which every report is made."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

from parity.cases import Case
from parity.compare import Verdict, worst

STATUSES = ("passed", "failed", "skipped", "inconclusive", "error")
EXIT_INTERRUPTED, EXIT_USAGE, EXIT_ERROR, EXIT_MISMATCH, EXIT_NOTHING = 130, 2, 3, 1, 4


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """The outcome of one case with one implementation. `cause` is a guess in words, for a failure; `notes` are what to
    know of the verdict, whatever it is; `case` makes its tensors again."""

    name: str
    status: str
    reason: str
    seed: int
    dtype: str
    implementation: str
    device: str
    reference: str
    candidate: str
    command: str
    verdicts: tuple[Verdict, ...] = ()
    cause: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    case: Case | None = None

    @property
    def worst(self) -> Verdict | None:
        """The verdict that decides: of the worst status, the one with the largest error / bound."""
        decisive = [verdict for verdict in self.verdicts if verdict.status == worst([v.status for v in self.verdicts])]
        return max(decisive, key=lambda verdict: verdict.bound_ratio, default=None)


@dataclasses.dataclass(frozen=True)
class Report:
    """A whole run. `peak_mib` is the most memory that all its processes have held, added up."""

    environment: Mapping[str, str]
    results: tuple[CaseResult, ...]
    seconds: float = 0.0
    peak_mib: int = 0
    interrupted: bool = False
    empty_shard: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many cases have each status."""
        found = collections.Counter(result.status for result in self.results)
        return {status: found[status] for status in STATUSES}

    @property
    def exit_code(self) -> int:
        """130 interrupted, 3 an error, 1 a mismatch, 4 nothing compared or something inconclusive, else 0."""
        counts = self.counts
        if self.interrupted:
            return EXIT_INTERRUPTED
        if counts["error"]:
            return EXIT_ERROR
        if counts["failed"]:
            return EXIT_MISMATCH
        if counts["inconclusive"] or (not counts["passed"] and not self.empty_shard):
            return EXIT_NOTHING
        return 0
