"""`parity merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.app import app
from parity.cli.options import EXITS, HtmlOption, JsonOption, JunitOption, MarkdownOption, QuietOption


@app.command(epilog=EXITS)
def merge(
    files: Annotated[list[Path], typer.Argument(help="JSON reports of `parity run --shard i/n --json F`.")],
    json: JsonOption = None,
    junit: JunitOption = None,
    html: HtmlOption = None,
    markdown: MarkdownOption = None,
    quiet: QuietOption = False,
) -> int:
    """Make one report, and one exit code, of the reports of several shards."""
    from rich.console import Console

    from parity.errors import BadInput
    from parity.report import merge as merging
    from parity.report import terminal, write_all, writers
    from parity.report.read import read

    twice = [path for n, path in enumerate(files) if path in files[:n]]
    if twice:
        raise BadInput(f"{twice[0]} is given twice; expected each report once")
    outputs = writers(json=json, junit=junit, html=html, markdown=markdown)
    reports = {str(path): read(path) for path in files}
    report = merging.merge(reports)
    console = Console()
    write_all(report, outputs, console)
    terminal.print_report(console, report, quiet=quiet)
    remarks = [f"shard {shard} is missing: its cases were not judged" for shard in merging.missing_shards(reports)]
    remarks += [f"the environments differ: {difference}" for difference in merging.differences(reports)]
    for remark in remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    return report.exit_code
