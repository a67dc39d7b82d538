"""A session with both sides in this process: the order is that of the product, the processes are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.pairs.cases import cases
from parity.pairs.load import load
from parity.pairs.messages import PairHello, PairSide
from parity.pairs.session import PairPlan
from parity.trace import flax_side, torch_side
from parity.trace.session import TraceSession

CANDIDATES = Path(__file__).parents[1] / "candidates"
EXAMPLES = Path(__file__).parents[3] / "examples"


class Inline(TraceSession):
    def __init__(self, spec: str, dtype: str) -> None:
        pair = load(spec)
        sides = [PairSide(spec, framework) for framework in ("torch", "flax")]
        found = cases(spec, pair, (dtype,))
        self.plan = PairPlan(found, *sides, rules=tuple(map(tuple, pair.weights)), notes=tuple(pair.differs))
        self._sides = {}
        self.made = torch_side.Made(pair, sides[0]), flax_side.Made(pair, sides[1])
        self._hellos = {
            label: PairHello({}, *made.described())
            for label, made in zip(("reference", "candidate"), self.made, strict=True)
        }
        self._ready()

    def _answers(self, torch, flax):
        return self.made[0].trace(torch), self.made[1].trace(flax)


@pytest.fixture
def trace():
    """The first case of a pair of tests/parity/candidates/parity_trace.py, or of another file."""

    def call(name, file=CANDIDATES / "parity_trace.py", dtype="float32"):
        session = Inline(f"{file}:{name}", dtype)
        try:
            return session.trace(session.plan.cases[0])
        finally:
            session.close()

    return call
