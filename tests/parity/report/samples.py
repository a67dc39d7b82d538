"""Reports as a run makes them, with pictures of real arrays and, where asked, names that want to be markup."""

from __future__ import annotations

import numpy as np

from parity.compare import Verdict
from parity.criterion import Expectation
from parity.picture import draw
from parity.results import STATUSES, CaseResult, Report

HOSTILE = (
    """<script>document.title='INJECTED'</script>"'`&amp;</script><img src=x onerror="document.title='INJECTED'"><!--"""
)
# What a file or a terminal may not even be able to hold.
UNPRINTABLE = "\x00\x1b[31m\ud800\uffff]]>\r\n\t\u2028::error::"
SHAPE = (2, 3, 5, 7)
BOUND = 2e-7


def verdict(status: str = "passed", quantity: str = "output", **fields: object) -> Verdict:
    """A verdict with its picture; one that failed is wrong in the last row of each (batch, head)."""
    truth = np.random.default_rng(0).standard_normal(SHAPE)
    error = np.abs(np.random.default_rng(1).normal(0, BOUND / 9, SHAPE))
    if status == "failed":
        error[..., -1, :] *= 1e5
    ratio = error / BOUND
    at = tuple(int(n) for n in np.unravel_index(ratio.argmax(), SHAPE))
    known = {
        "reason": "" if status == "passed" else "30 of 210 beyond the bound",
        "max_error": float(error.max()),
        "reference_error": 3e-8,
        "bound_ratio": float(ratio.max()),
        "worst_index": at,
        "candidate": float(truth[at] + error[at]),
        "reference": float(truth[at]),
        "truth": float(truth[at]),
        "bound": BOUND,
        "mismatched": int((ratio > 1).sum()),
        "elements": ratio.size,
        "picture": draw(ratio, error, truth, "float32"),
    }
    return Verdict(quantity, status, **(known | fields))


def result(status: str = "passed", name: str = "S1", **fields: object) -> CaseResult:
    known = {
        "reason": "" if status == "passed" else f"because of {name}",
        "seed": 0,
        "dtype": "float32",
        "implementation": "auto",
        "device": "cpu",
        "reference": "attend_torch:Attend",
        "candidate": "my_port:Attend",
        "command": f"parity run --case {name}",
        "cause": "causal is aligned to the other corner" if status == "failed" else "",
        "seconds": 0.25,
        "verdicts": () if status in ("skipped", "error") else (verdict(status), verdict(quantity="dquery")),
    }
    return CaseResult(name=name, status=status, **(known | fields))


def report(*statuses: str, start: int = 0, **fields: object) -> Report:
    cases = tuple(result(status, f"S1,i={n}") for n, status in enumerate(statuses, start))
    return Report({"python": "3.11", "seed": "0"}, cases, **fields)


def thousand() -> Report:
    """One thousand cases, of each status some, and hostile words wherever a word can stand."""
    made = []
    for n in range(1000):
        status = STATUSES[n // 10 % 5] if n % 10 == 0 else STATUSES[n] if n < 5 else "passed"
        name = f"case{n}" + (HOSTILE if n % 20 == 0 or n < 5 else "")
        words = (
            {"reason": name, "cause": name, "notes": (name, f"first divergence: {name}")} if status == "failed" else {}
        )
        made.append(result(status, name, candidate=name, device=name, **words))
    return Report({HOSTILE: HOSTILE, "jax": "0.10.2"}, tuple(made), 57.9, 1490)


def expectation() -> Expectation:
    truth = np.random.default_rng(0).standard_normal(SHAPE)
    return Expectation(truth, np.full(SHAPE, 1e-6), "float32", (2, 3))
