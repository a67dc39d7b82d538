"""`parity mutate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parity.attention import DTYPES
from parity.cli.app import app
from parity.cli.choice import pair_plans, suite_cases
from parity.cli.options import PairOption, QuietOption, names


@app.command(
    epilog="Exit code: 0 all wrong ports caught and no honest one rejected · 1 otherwise · 2 bad input · 4 not judged"
)
def mutate(
    suite: Annotated[str, typer.Option("--suite", help="The suite that must catch every wrong port.")] = "default",
    mutant: Annotated[str | None, typer.Option("--mutant", help="Glob over the names of ports.")] = None,
    pair: PairOption = None,
    dtype: Annotated[str | None, typer.Option(help="With --pair: float32, bfloat16 or float16; NAME,…")] = None,
    seeds: Annotated[int, typer.Option(help="With --pair: so many, from --seed on.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the tensors.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the kill matrix as JSON.")] = None,
    quiet: QuietOption = False,
) -> int:
    """Judge the judge: run a catalogue of wrong and honest ports, and print which suite and quantity caught which."""
    from parity import mutate as mutation
    from parity.report import check_writable

    if pair:
        from parity.pairs import mutate as of_pairs
        from parity.process import default_cache_dir

        if json is not None:
            check_writable("--json", json)
        plans = pair_plans(
            pair, None, names("--dtype", dtype, DTYPES), None, seed=seed, cache_dir=default_cache_dir()
        )  # fmt: skip
        return of_pairs.main(plans, mutant, seeds, json, quiet=quiet)
    suite_cases(suite)
    if json is not None:
        check_writable("--json", json)
    return mutation.main(suite, mutant, seed, json, quiet=quiet)
