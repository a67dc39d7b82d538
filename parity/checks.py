"""`parity run` as functions: a report to look at instead of an exit code, or an AssertionError that says it all.

Not called check.py: an import of that module would stand in the place of the function `parity.check`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from rich.markup import escape
from rich.text import Text

from parity.attention import DTYPES
from parity.cli.choice import attention_cases
from parity.cli.choice import pair_plans as plans_of_specs
from parity.cli.options import check_device
from parity.errors import BadInput
from parity.pairs.pair import Pair
from parity.pairs.place import name_of, spec_of
from parity.pipeline import DEFAULT_CANDIDATE, DEFAULT_REFERENCE, Plan
from parity.process import default_cache_dir
from parity.report import terminal
from parity.results import CaseResult, Report
from parity.sessions import Sessions
from parity.spec import Spec

Pairs = Pair | str | Path | Sequence[Pair | str | Path]
Dtypes = str | Sequence[str] | None
# How many quantities of a failure are shown: a model has as many as it has parameters.
_SHOWN = 4
_SAYS = {"inconclusive": "is inconclusive", "error": "could not be judged"}


class Options(TypedDict, total=False):
    """The keywords of `check`."""

    case: str | None
    dtypes: Dtypes
    seed: int
    device: str | None
    timeout: float


def check(
    pair: Pairs,
    *,
    case: str | None = None,
    dtypes: Dtypes = None,
    seed: int = 0,
    device: str | None = None,
    timeout: float = 120.0,
) -> Report:
    """Judge a pair, or several, as `parity run --pair` does.

    Args:
      pair: a `Pair` at the top of a module or script, or where one stands: "FILE.py:NAME", "MODULE:NAME", a file or a
        folder with all that it holds; or a sequence of these.
      case: a glob over the names of cases.
      dtypes: of "float32", "bfloat16", "float16", instead of the pair's own.
      seed: of the tensors and the weights.
      device: "cpu" or "gpu"; by default each framework's own choice.
      timeout: seconds a side may take for a case.

    >>> check("examples/parity_blocks.py:mlp", case="*n=5").counts["passed"]
    1

    Raises:
      BadInput: there is no such pair or case, or a worker could not find it.
    """
    return judge(pair_plans(pair, case=case, dtypes=dtypes, seed=seed, device=device, timeout=timeout))


def check_attention(
    candidate: str | Callable[..., Any] = DEFAULT_CANDIDATE,
    *,
    reference: str | Callable[..., Any] = DEFAULT_REFERENCE,
    suite: str = "smoke",
    case: str | None = None,
    dtypes: Dtypes = None,
    implementations: Sequence[str] = (),
    seed: int = 0,
    device: str | None = None,
    timeout: float = 120.0,
) -> Report:
    """Judge an attention, as `parity run --candidate` does.

    Args:
      candidate, reference: a class like `Attend` or a function like `attend`, torch's or JAX's; or where it stands,
        "[torch:|jax:]MODULE:NAME".
      suite: "smoke", "default", "edge", "workload" or "full".
      case: a glob over the names of cases, of any suite.
      implementations: of the candidate; each runs every case.
      dtypes, seed, device, timeout: as in `check`.

    >>> check_attention("attend_jax:attend", case="S1,i=5").counts["passed"]
    1

    Raises:
      BadInput: there is no such candidate, suite or case.
    """
    plans = attention_plans(
        candidate, reference=reference, suite=suite, case=case, dtypes=dtypes, implementations=implementations,
        seed=seed, device=device, timeout=timeout,
    )  # fmt: skip
    return judge(plans)


def assert_parity(what: Pairs | Report, **options: Unpack[Options]) -> Report:
    """Nothing, if all of it passed: a pair or several, with the options of `check`, or a report that is there already.

    >>> report = assert_parity(check_attention(case="S1"))

    Raises:
      AssertionError: something failed, could not be judged, or nothing was compared. It says what, by how much, where,
        and how to repeat it.
      BadInput: as `check`.
    """
    __tracebackhide__ = True
    if isinstance(what, Report) and options:
        raise TypeError(f"{', '.join(options)}: a report has been made already; give them to what makes it")
    report = what if isinstance(what, Report) else check(what, **options)
    if report.exit_code:
        raise AssertionError(explain(report))
    return report


def judge(plans: Sequence[Plan]) -> Report:
    """Run plans in processes of their own, which are ended with it."""
    with Sessions() as sessions:
        return sessions.report([result for plan in plans for result in sessions.run(plan)])


def pair_plans(
    pairs: Pairs,
    *,
    case: str | None = None,
    dtypes: Dtypes = None,
    seed: int = 0,
    device: str | None = None,
    timeout: float = 120.0,
) -> list[Plan]:
    """A plan for each pair."""
    _check_start(device)
    several = list(pairs) if isinstance(pairs, list | tuple) else [pairs]
    for pair in several:
        if not isinstance(pair, Pair | str | Path):
            raise BadInput(f"expected a parity.Pair or where one stands, as 'FILE.py:NAME'; got {pair!r}")
    specs = [spec_of(pair) if isinstance(pair, Pair) else str(pair) for pair in several]
    return plans_of_specs(
        specs, case, _dtypes(dtypes), None, seed=seed, device=device, timeout=timeout, cache_dir=default_cache_dir()
    )


def attention_plans(
    candidate: str | Callable[..., Any] = DEFAULT_CANDIDATE,
    *,
    reference: str | Callable[..., Any] = DEFAULT_REFERENCE,
    suite: str = "smoke",
    case: str | None = None,
    dtypes: Dtypes = None,
    implementations: Sequence[str] = (),
    seed: int = 0,
    device: str | None = None,
    timeout: float = 120.0,
) -> list[Plan]:
    """The one plan for an attention."""
    _check_start(device)
    plan = Plan(
        cases=[attention.case() for attention in attention_cases(suite, case, None, seed, _dtypes(dtypes))],
        reference=_spec(reference), candidate=_spec(candidate), seed=seed, device=device,
        implementations=_words(implementations), timeout=timeout, cache_dir=default_cache_dir(),
    )  # fmt: skip
    return [plan]


def explain(report: Report) -> str:
    """Why a report is no proof: its first case that failed, in full, and the names of the others."""
    bad = [result for result in report.results if result.status in ("failed", "error")]
    bad = bad or [result for result in report.results if result.status == "inconclusive"]
    if not bad:
        reasons = "; ".join(dict.fromkeys(result.reason for result in report.results)) or "there were no cases"
        return f"nothing was compared: {reasons}"
    lines = list(_details(bad[0]))
    if bad[1:]:
        names = ", ".join(f"{result.name} ({result.status})" for result in bad[1:])
        lines.append(f"{len(bad)} of {len(report.results)} cases did not pass; the others: {names}")
    return "\n".join(lines)


def _details(result: CaseResult) -> Iterator[str]:
    """As the terminal shows it, with outputs first, then the quantities that are off most."""
    decisive = [verdict for verdict in result.verdicts if verdict.status == result.status]
    decisive.sort(key=lambda verdict: (not verdict.quantity.startswith("output"), -verdict.bound_ratio))
    shown, others = decisive[:_SHOWN], ", ".join(verdict.quantity for verdict in decisive[_SHOWN:])
    # pytest's summary has room for one line: what, and by how much.
    first = f"{shown[0].quantity}, error / bound {shown[0].bound_ratio:.3g}" if shown else result.reason
    label = result.name if result.implementation == "auto" else f"{result.name} [{result.implementation}]"
    yield f"{label} {_SAYS.get(result.status, result.status)}: {first}"
    reason = result.reason if shown else ""  # it stands in the first line
    _, *lines, again = terminal.details(dataclasses.replace(result, verdicts=tuple(shown), reason=reason)).split("\n")
    for line in [*filter(str.strip, lines), *([f"  and so do {escape(others)}"] if others else []), again]:
        yield Text.from_markup(line).plain


def _check_start(device: str | None) -> None:
    check_device(device)
    if multiprocessing.current_process().daemon:
        raise BadInput(
            "parity was asked to judge while a worker of its own imports the file; "
            "put the call into a function, or below `if __name__ == '__main__':`"
        )


def _spec(target: str | Callable[..., Any]) -> Spec:
    return Spec.parse(target if isinstance(target, str) else name_of(target))


def _dtypes(given: Dtypes) -> tuple[str, ...]:
    found = _words(given or ())
    for dtype in found:
        if dtype not in DTYPES:
            raise BadInput(f"dtypes are of {', '.join(DTYPES)}; got {dtype!r}")
    return found


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """A sequence of names, which may be written as on the command line, with commas."""
    return tuple(word.strip() for word in given.split(",")) if isinstance(given, str) else tuple(given)
