"""`parity doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from parity.cli.app import app


@app.command()
def doctor(
    pair: Annotated[
        list[str] | None,
        typer.Option("--pair", help="Instead: which settings of your own pair's two sides differ. Repeatable."),
    ] = None,
) -> int:
    """Show versions, devices and precision settings of both sides, and whether each can run. Exit 3 if one cannot.

    With --pair: every setting of a pair that differs, and what it would do. Exit 1 if one counts, 2 for bad input.
    """
    if pair:
        from parity.pairs.audit_run import examine as examine_pairs

        return examine_pairs(pair)
    from parity.doctor import examine

    return examine()
