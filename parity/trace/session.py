"""The order of a trace: watch both sides, align, judge in the whole model, then alone, and say which is wrong."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np

from parity import tensors
from parity.compare import Verdict
from parity.mapped import rest
from parity.messages import Outcome
from parity.pairs import gradients
from parity.pairs.cases import PairCase
from parity.pairs.session import PairPlan, PairSession
from parity.process import wait_for
from parity.trace import worker
from parity.trace.align import Aligned, Alignment, align
from parity.trace.blame import blame, first, starts
from parity.trace.cause import likely_cause
from parity.trace.judge import Judge, worst
from parity.trace.messages import ROOT, Forced, Traced, TraceJob
from parity.trace.results import Direction, Row, Trace, failed


class TraceSession(PairSession):
    """Both sides of one pair, watched."""

    worker = staticmethod(worker.main)  # type: ignore[assignment]
    plan: PairPlan

    def trace(self, case: PairCase) -> Trace:
        """Where the port starts to differ in a case."""
        start = time.monotonic()
        found = self._trace(case, tensors.make(case, self.plan.seed))
        return dataclasses.replace(
            found, seed=self.plan.seed, seconds=time.monotonic() - start, notes=self.plan.notes + found.notes
        )

    def _trace(self, case: PairCase, arrays: dict[str, np.ndarray]) -> Trace:
        torch, flax = self._both(case, arrays, None, None)
        if stopped := _stopped(case, torch, flax):
            return stopped
        hellos = self._hellos["reference"].layers, self._hellos["candidate"].layers
        linen = any(name.startswith("params.") for layer in hellos[1] for name in _paths(layer))
        aligned = align(torch, flax, self._map, hellos, linen=linen)
        whole = Judge(torch.arrays, self._in_torch_names(flax.arrays, case.dtype))
        rows = _in_place(whole, aligned)
        calls = {row.call.torch: row.call for row in rows if _to_run_alone(row, rows)}
        forced = {name: whole.forced(call) for name, call in calls.items()}
        rest(whole.torch)
        sent = {name: given for name, given in forced.items() if isinstance(given, Forced)}
        alone, silent = None, dict[str, str]()
        if sent:
            mine, theirs = self._both(
                case, arrays, dict.fromkeys(sent), {calls[name].flax: given for name, given in sent.items()}
            )
            if stopped := _stopped(case, mine, theirs):
                return stopped
            alone, silent = Judge(mine.arrays, theirs.arrays), dict(theirs.silent)
        words = {name: given for name, given in forced.items() if isinstance(given, str)}
        words |= {name: silent[calls[name].flax] for name in sent if calls[name].flax in silent}
        blamed = blame(
            [_judged_alone(row, _parameters(row.call, whole, aligned), alone, whole, sent, words) for row in rows]
        )
        one, backward = first(blamed)
        status = _status(blamed, one)
        if one is None:
            return Trace(case.name, status, "", blamed, aligned.left_out)
        cause = likely_cause(one, backward, whole, alone, self._hellos["reference"].arrays)
        inner = starts(one, blamed, backward=backward)
        return Trace(case.name, status, "", blamed, aligned.left_out, one, backward, cause, inner)

    def _both(
        self,
        case: PairCase,
        arrays: dict[str, np.ndarray],
        torch: Mapping[str, None] | None,
        flax: Mapping[str, Forced] | None,
    ) -> tuple[Traced, Traced]:
        weights = self._weights(case.run_dtype)
        return self._answers(
            TraceJob(0, case, arrays, seed=self.plan.seed, alone=torch),
            TraceJob(0, case, arrays, weights, seed=self.plan.seed, alone=flax),
        )

    def _answers(self, torch: TraceJob, flax: TraceJob) -> tuple[Traced, Traced]:
        reference, candidate = self._sides["reference"], self._sides["candidate"]
        reference.submit(torch)
        candidate.submit(flax)
        answers: dict[str, Outcome] = {}
        while len(answers) < 2:
            wait_for([reference, candidate], 0.5)
            for label, side in self._sides.items():
                answer = side.poll()
                if answer is not None:
                    answers[label] = answer
        return _traced(answers["reference"]), _traced(answers["candidate"])

    def _in_torch_names(self, arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
        own = {name[2:-1]: array for name, array in arrays.items() if name.startswith("d(")}
        moved = gradients.to_torch(self._map, own, dtype)
        return {n: a for n, a in arrays.items() if not n.startswith("d(")} | {f"d({n})": a for n, a in moved.items()}


def _in_place(whole: Judge, aligned: Alignment) -> list[Row]:
    rows: list[Row] = []
    for call in aligned.calls:
        root = call.torch == ROOT
        forward = Direction(None if root else whole.forward("input", call), whole.forward("output", call))
        returned = [
            v for v in (whole.backward("input", call, whole), _parameters(call, whole, aligned)) if v is not None
        ]
        given = None if root else whole.backward("output", call, whole)
        rows.append(Row(call, forward, Direction(given, worst(returned))))
    return rows


def _parameters(call: Aligned, whole: Judge, aligned: Alignment) -> Verdict | None:
    """The gradients of all parameters that lie in a call's module."""
    verdicts = (whole.parameters(other) for other in aligned.calls if _holds(call, other))
    return worst(verdict for verdict in verdicts if verdict is not None)


def _judged_alone(
    row: Row,
    parameters: Verdict | None,
    alone: Judge | None,
    whole: Judge,
    sent: Mapping[str, Forced],
    words: Mapping[str, str],
) -> Row:
    """The gradients of the parameters in it count where it is given the right inputs, and the right gradient."""
    call, forward, backward = row.call, row.forward, row.backward
    if call.torch == ROOT:
        return Row(
            call, dataclasses.replace(forward, alone=forward.place), dataclasses.replace(backward, alone=backward.place)
        )
    own = None if failed(forward.given) or failed(backward.given) else parameters
    why = words.get(call.torch, "")
    if alone is None or call.torch not in sent or why:
        back = dataclasses.replace(backward, alone=own if failed(own) else None, words=why)
        return Row(call, dataclasses.replace(forward, words=why), back)
    pulled = alone.backward("input", call, whole)
    returned = [verdict for verdict in (pulled, own) if verdict is not None]
    return Row(
        call,
        dataclasses.replace(forward, alone=alone.forward("output", call)),
        dataclasses.replace(backward, alone=worst(returned)),
    )


def _to_run_alone(row: Row, rows: list[Row]) -> bool:
    """Layers; and containers only where they differ, or all would be run once more for each level that they lie in."""
    if row.call.torch == ROOT:
        return False
    layer = not any(_holds(row.call, other.call) and other.call.where != row.call.where for other in rows)
    return layer or row.forward.bad or row.backward.bad


def _holds(outer: Aligned, inner: Aligned) -> bool:
    return not outer.where or inner.where == outer.where or inner.where.startswith(outer.where + ".")


def _paths(layer: object) -> list[str]:
    return [tensor.path for tensor in layer.tensors.values()]  # type: ignore[attr-defined]


def _traced(answer: Outcome) -> Traced:
    return answer if isinstance(answer, Traced) else Traced(answer.key, raised=answer.raised, lost=answer.lost)


def _stopped(case: PairCase, torch: Traced, flax: Traced) -> Trace | None:
    """There is nothing to judge."""
    if torch.lost or flax.lost:
        return Trace(case.name, "error", torch.lost or flax.lost or "")
    if torch.raised:
        return Trace(case.name, "skipped", f"the reference raised {torch.raised}")
    if flax.raised:
        return Trace(case.name, "failed", f"the candidate raised {flax.raised}", raised=True)
    return None


def _status(rows: tuple[Row, ...], one: Row | None) -> str:
    if one is not None:
        return "failed"
    root = rows[-1]
    verdicts = [root.forward.place, root.backward.place]
    return "inconclusive" if any(v is not None and v.status == "inconclusive" for v in verdicts) else "passed"
