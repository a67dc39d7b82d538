"""Which cases options mean."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from parity.attention import DTYPES, Attention
from parity.errors import BadInput

T = TypeVar("T")


def suite_cases(name: str) -> list[Attention]:
    from parity import suites

    if name not in suites.SUITES:
        raise BadInput(f"--suite must be one of {', '.join(suites.SUITES)}; got {name!r}")
    return list(suites.suite(name))


def attention_cases(
    suite: str, glob: str | None, fuzz: int | None, seed: int, dtypes: tuple[str, ...]
) -> list[Attention]:
    """The cases that were asked for."""
    if fuzz is not None:
        if glob is not None:
            raise BadInput("--fuzz draws its own cases; leave out --case")
        from parity.fuzz import draw, says_something

        return draw(fuzz, seed, dtypes or DTYPES, lambda case: says_something(case, seed))
    cases = suite_cases(suite)
    if glob is not None:
        # Prefer the suite that was asked for, then any, then a name that says everything itself.
        cases = _match(cases, glob) or _match(suite_cases("full") + suite_cases("workload"), glob)
        if not cases:
            cases = [_by_name(glob)]
    if dtypes:
        kept = [case for case in cases if case.dtype in dtypes]
        if not kept:
            raise BadInput(f"no case that was asked for is in {', '.join(dtypes)}")
        cases = kept
    return cases


def pair_plans(
    texts: Sequence[str],
    glob: str | None,
    dtypes: tuple[str, ...],
    shard: str | None,
    *,
    seed: int,
    spreads: str | None = None,
    worker: Callable[..., None] | None = None,
    **options: Any,
) -> list[Any]:
    """A plan for each pair that has a case to run. `worker` is the main function of its sides: that of a pair which is
    named in full are started at once."""
    from parity.messages import Options
    from parity.pairs import load, scout
    from parity.pairs.messages import PairSide
    from parity.pairs.session import PairPlan
    from parity.process import end_early, start_early

    spec = load.whole(texts[0]) if len(texts) == 1 else None
    if worker is not None and spec is not None:
        how = Options(options.get("device"), (), options.get("cache_dir"))
        start_early(worker, PairSide(spec, "torch", seed, spreads), how)
        start_early(worker, PairSide(spec, "flax", seed), how)
    try:
        found = scout.find(texts, dtypes)
        names = [case.name for pair in found for case in pair.cases if fnmatch.fnmatchcase(case.name, glob or "*")]
        if not names:
            there = " ".join(case.name for pair in found for case in pair.cases)
            raise BadInput(f"--case {glob!r} matches no case; there are {there}")
    except BaseException:
        end_early()
        raise
    wanted = set(part(names, shard)[0])
    if not wanted:
        end_early()
    return [
        PairPlan(
            cases=[case for case in pair.cases if case.name in wanted],
            reference=PairSide(pair.spec, "torch", seed, spreads),
            candidate=PairSide(pair.spec, "flax", seed),
            seed=seed,
            notes=pair.notes,
            rules=pair.rules,
            ignore=pair.ignore,
            shard=shard,
            **options,
        )
        for pair in found
    ]


def _by_name(name: str) -> Attention:
    """A case that stands in no suite, from its name: a fuzz case, or one made up."""
    if "=" not in name and not name.startswith("fuzz-"):
        raise BadInput(f"--case {name!r} matches no case; see `parity list --suite full`")
    try:
        return Attention.parse(name)
    except ValueError as error:
        raise BadInput(f"--case {name!r} matches no case (see `parity list --suite full`), and {error}") from None


def _match(cases: list[Attention], glob: str) -> list[Attention]:
    found = {case.name: case for case in cases if fnmatch.fnmatchcase(case.name, glob)}
    return list(found.values())


def part(cases: list[T], shard: str | None) -> tuple[list[T], bool]:
    if shard is None:
        return cases, False
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f"--shard must be i/n with 1 <= i <= n, as 2/3; got {shard!r}")
    part = cases[int(match[1]) - 1 :: int(match[2])]
    return part, not part
