"""Which plans a golden and the options of `parity replay` mean."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path
from typing import Any

from parity.cases import Case
from parity.cli.choice import pair_plans
from parity.errors import BadInput
from parity.goldens.golden import Golden, Reference
from parity.goldens.replay import AttentionReplayPlan, PairReplayPlan, Source


def attention_plan(path: Path, golden: Golden, glob: str | None, **options: Any) -> AttentionReplayPlan:
    """The plan for a golden of attention."""
    wanted = _wanted(path, golden, glob)
    (reference,) = golden.references
    return AttentionReplayPlan(
        cases=_cases(reference, wanted), reference=Source(str(path), golden.kind, reference), seed=golden.seed,
        notes=_notes(path, golden, reference), **options,
    )  # fmt: skip


def pair_replays(
    path: Path, golden: Golden, glob: str | None, pair: str | None, **options: Any
) -> list[PairReplayPlan]:
    """A plan for each pair of a golden: those that were recorded, or what `--pair` says instead."""
    wanted = _wanted(path, golden, glob)
    found = []
    for reference, spec in _specs(path, golden, pair):
        cases = _cases(reference, wanted)
        if not cases:
            continue
        (plan,) = _candidates(spec, golden.seed, options)
        fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
        fields |= {"cases": cases, "reference": Source(str(path), golden.kind, reference)}
        fields["notes"] = (*plan.notes, *_notes(path, golden, reference))
        found.append(PairReplayPlan(**fields, pair=spec if spec != reference.name else None))
    return found


def _specs(path: Path, golden: Golden, pair: str | None) -> list[tuple[Reference, str]]:
    """Each recorded pair that is to be judged, and the SPEC of the one whose Flax half is."""
    if pair is None:
        return [(reference, reference.name) for reference in golden.references]
    place, colon, name = pair.rpartition(":")
    names = {reference.name.rpartition(":")[2]: reference for reference in golden.references}
    if not colon:  # a file: its pairs by the names that were recorded
        return [(reference, f"{pair}:{own}") for own, reference in names.items()]
    if len(golden.references) == 1:
        return [(golden.references[0], pair)]
    if name not in names:
        raise BadInput(f"--pair {pair}: {path} holds the pairs {', '.join(names)}; which one is it to be judged by?")
    return [(names[name], f"{place}:{name}")]


def _candidates(spec: str, seed: int, options: dict[str, Any]) -> list[Any]:
    try:
        return pair_plans([spec], None, (), None, seed=seed, **options)
    except BadInput as error:
        remedy = ""
        if "needs 'torch'" in str(error):
            remedy = ". Only the Flax half is needed here: import torch within the function that makes the torch module"
        elif "there is no file" in str(error) or "there is no module" in str(error):
            remedy = ". Say with --pair where the pair is now"
        raise BadInput(f"{error}{remedy}") from None


def _wanted(path: Path, golden: Golden, glob: str | None) -> set[str]:
    there = list(golden.recordings)
    wanted = {name for name in there if fnmatch.fnmatchcase(name, glob or "*")}
    if glob is not None and not wanted:
        raise BadInput(f"--case {glob!r} matches no case of {path}; it holds {' '.join(there)}")
    return wanted


def _cases(reference: Reference, wanted: set[str]) -> list[Case]:
    return [recording.case for recording in reference.cases if recording.case.name in wanted]


def _notes(path: Path, golden: Golden, reference: Reference) -> tuple[str, ...]:
    by = ", ".join(
        f"{name} {reference.environment[name]}" for name in ("torch", "jax") if name in reference.environment
    )
    date = golden.provenance.get("date", "")[:10]
    return (f"judged by {path}: {reference.name} with {by}, recorded {date}",)
