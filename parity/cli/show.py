"""`parity list` and `parity show`: what there is to run."""

from __future__ import annotations

from typing import Annotated

import typer

from parity.cli.app import app
from parity.cli.choice import attention_cases
from parity.cli.options import CaseOption, SuiteOption


@app.command("list")
def list_(suite: SuiteOption = "default", case: CaseOption = None) -> int:
    """Name the cases of a suite, and the suites."""
    from parity import suites

    for attention in attention_cases(suite, case, None, 0, ()):
        typer.echo(attention.name)
    if case is None:
        typer.echo("", err=True)
        for name, (words, _) in suites.SUITES.items():
            typer.echo(f"{name:<9} {len(suites.suite(name)):>4} cases: {words}", err=True)
    return 0


@app.command()
def show(case: Annotated[str, typer.Argument(help="A case's name, as `parity list` prints it.")]) -> int:
    """Show the tensors and arguments of a case, and how to run it."""
    from rich.console import Console
    from rich.table import Table

    for attention in attention_cases("full", case, None, 0, ()):
        data = attention.case()
        console = Console()
        console.print(f"[bold]{data.name}[/]", highlight=False, soft_wrap=True)
        arguments = ", ".join(f"{name}={value!r}" for name, value in data.arguments.items()) or "all defaults"
        console.print(f"arguments: {arguments}", highlight=False)
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("tensor", "shape", "dtype", "role", "std"):
            grid.add_column(heading)
        for tensor in data.tensors:
            grid.add_row(tensor.name, str(tensor.shape), tensor.dtype, tensor.role, f"{tensor.std:g}")
        console.print(grid)
        console.print(f"values: {data.values}; compared: {', '.join(data.quantities)}", highlight=False)
        console.print(f"run: [cyan]parity run --case {data.name}[/]", highlight=False, soft_wrap=True)
    return 0
