"""`parity mutate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.app import app
from parity.cli.choice import suite_cases
from parity.cli.options import QuietOption


@app.command(epilog="Exit code: 0 all wrong ports caught and no honest one rejected · 1 otherwise · 2 bad input")
def mutate(
    suite: Annotated[str, typer.Option("--suite", help="The suite that must catch every wrong port.")] = "default",
    mutant: Annotated[str | None, typer.Option("--mutant", help="Glob over the names of ports.")] = None,
    seed: Annotated[int, typer.Option(help="Of the tensors.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the kill matrix as JSON.")] = None,
    quiet: QuietOption = False,
) -> int:
    """Judge the judge: run a catalogue of wrong and honest ports, and print which suite and quantity caught which."""
    from parity import mutate as mutation
    from parity.report import check_writable

    suite_cases(suite)
    if json is not None:
        check_writable("--json", json)
    return mutation.main(suite, mutant, seed, json, quiet=quiet)
