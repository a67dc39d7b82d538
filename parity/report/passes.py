"""What is said while a case takes long: which pass of how many, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from parity.messages import Pass

# Seconds: who waits less for all that is left needs no words, and a log no more than one line in so long.
PATIENCE = 5.0


class Passes:
    """Turns passes into words for a bar, which takes all of them, or for a log.

    The rest is estimated by the longest pass after the first, in which torch gets ready; the others are alike.
    """

    def __init__(self, say: Callable[[str], None], *, log: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._log, self._clock = say, log, clock
        self._last = self._longest = self._said = 0.0

    def __call__(self, one: Pass) -> None:
        now = self._clock()
        if not one.number:
            self._last, self._longest, self._said = now, 0.0, now
            return
        words = f"pass {one.number} of {one.total} in float64"
        if one.number > 1:
            self._longest = max(self._longest, now - self._last)
        self._last, rest = now, self._longest * (one.total - one.number)
        if self._log and (rest < PATIENCE or now - self._said < PATIENCE):
            return
        self._said = now
        self._say(words + (f", about {rest:.0f} s to go" if one.number > 1 else ""))
