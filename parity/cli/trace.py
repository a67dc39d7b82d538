"""`parity trace`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from parity.attention import DTYPES
from parity.cli.app import app
from parity.cli.choice import pair_plans
from parity.cli.options import check_device, names
from parity.errors import BadInput

EXITS = """Exit code: 0 no divergence · 1 a module differs · 2 bad input · 3 an error (a worker died) · 4 nothing
compared, or inconclusive · 130 interrupted."""


@app.command(epilog=EXITS)
def trace(
    pair: Annotated[
        list[str], typer.Option("--pair", help="MODULE:NAME, FILE.py[:NAME] or a folder of parity_*.py. Repeatable.")
    ],
    case: Annotated[
        str | None, typer.Option("--case", help="Glob over case names; by default all of the pair.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; NAME,… for several.")] = None,
    seed: Annotated[int, typer.Option(help="Of the tensors.", min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default each framework's own choice.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds a side may take for a case.", min=0.1)] = 300.0,
    json: Annotated[Path | None, typer.Option(help="Write what was found as JSON.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Find the bounds anew, and do not keep them.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer.")] = False,
) -> int:
    """Name the first module in which a port starts to differ, forward or backward, and a likely cause."""
    from parity.process import default_cache_dir, default_spreads_dir
    from parity.report import check_writable
    from parity.trace import command, worker

    dtypes = names("--dtype", dtype, DTYPES)
    check_device(device)
    if json is not None:
        check_writable("--json", json)
    plans = pair_plans(
        pair, case, dtypes, None, seed=seed, device=device, timeout=timeout, cache_dir=default_cache_dir(),
        spreads=None if no_cache else default_spreads_dir(), worker=worker.main,
    )  # fmt: skip
    # What a module does in training is for `run`: here it is watched in evaluation.
    plans = [replace(plan, cases=[each for each in plan.cases if each.mode == "eval"]) for plan in plans]
    if not any(plan.cases for plan in plans):
        raise BadInput("parity trace looks at modules in evaluation; these cases are all of training: see --case")
    return command.run([plan for plan in plans if plan.cases], json, quiet=quiet)
