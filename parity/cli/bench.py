"""`parity bench`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from parity.attention import DTYPES
from parity.cli.app import app
from parity.cli.options import check_device, names
from parity.errors import BadInput

EXITS = """Exit code: 0 measured; with --check, every goal that could be judged is met · 1 with --check, a goal is
missed · 2 bad input · 4 nothing measured; with --check, no goal could be judged · 130 interrupted (files are
written)."""


@app.command(epilog=EXITS)
def bench(
    context: typer.Context,
    row: Annotated[
        str | None, typer.Option("--row", help="Glob over the names of rows, or a case's whole name.")
    ] = None,
    contender: Annotated[
        str | None, typer.Option("--contender", help="Globs over contenders, as 'ours/*,torch/sdpa'.")
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="forward, or both: also forward+backward.")] = "both",
    dtype: Annotated[str | None, typer.Option(help="Only rows in float32, bfloat16 or float16; NAME,…")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default what both frameworks find.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds: each contender gives one sample a round.", min=1)] = 7,
    time_limit: Annotated[float, typer.Option(help="Seconds a contender may take for a row.", min=0.1)] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the tensors and of the order of each round.", min=0)] = 0,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also time lengths from short to very long.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if `auto` misses a stated ratio.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write every sample as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw time and memory against length as .png or .svg; with --sweep.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the goals.")] = False,
) -> int:
    """Time ours and theirs side by side, interleaved; with memory, error against float64, and the stated ratios."""
    from parity.bench import command
    from parity.bench.rows import FORWARD, MODES

    dtypes = names("--dtype", dtype, DTYPES)
    check_device(device)
    if mode not in ("forward", "both"):
        raise BadInput(f"--mode must be forward or both; got {mode!r}")
    return command.run(
        row=row, device=device, dtypes=dtypes, modes=(FORWARD,) if mode == "forward" else MODES, contender=contender,
        repeats=repeats, limit=time_limit, seed=seed, sweep=sweep, check=check, json_path=json, plot_path=plot,
        quiet=quiet, command=_again(context),
    )  # fmt: skip


def _again(context: typer.Context) -> str:
    """The command that was given, without what it left to the defaults."""
    words = ["parity", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            option, value = max(parameter.opts, key=len), context.params[str(parameter.name)]
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)
