"""`parity doctor --pair`: both sides' settings side by side, and what each difference would do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.channel import Channel
from parity.errors import BadInput
from parity.messages import Bad, Options
from parity.pairs import scout
from parity.pairs.audit import Audited, Row, audit
from parity.pairs.messages import PairSide
from parity.process import Side
from parity.results import EXIT_ERROR, EXIT_MISMATCH
from parity.spec import BadSpec
from parity.worker import end_with_parent, words


def examine(texts: Sequence[str]) -> int:
    """Print a table for each pair: 0 if nothing differs that counts, 1 if something does, 3 if a side cannot run.

    Raises:
      BadInput: there is no such pair, or its file cannot be imported.
    """
    console = Console(highlight=False)
    codes = [_one(console, found) for found in scout.find(texts, ())]
    return max(codes, key=(0, EXIT_MISMATCH, EXIT_ERROR).index)


def _one(console: Console, found: scout.Found) -> int:
    console.print(f"[bold]{escape(found.spec)}[/]", soft_wrap=True)
    sides = {}
    for framework in ("torch", "flax"):
        try:
            sides[framework] = _audited(PairSide(found.spec, framework))
        except BadSpec as error:
            console.print(f"  {framework} side [bold red]cannot run[/]: {escape(str(error))}", soft_wrap=True)
    if len(sides) < 2:
        return EXIT_ERROR
    rows = audit(sides["torch"], sides["flax"], found.rules)
    counting = [row for row in rows if row.counts]
    if rows:
        console.print(_table(rows))
    for note in found.notes:
        console.print(f"  {escape(note)}", soft_wrap=True)
    differ = f"[bold red]different: {len(counting)}[/]" if counting else "[green]nothing differs that counts[/]"
    console.print(f"  {differ}; notes: {len(rows) - len(counting)}", soft_wrap=True)
    return EXIT_MISMATCH if counting else 0


def _audited(side: PairSide) -> Audited:
    process = Side(side, Options(), label=side.framework, timeout=60, main=main)
    try:
        answer: Audited = process.hello()
        return answer
    finally:
        process.close()


def _table(rows: Sequence[Row]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "torch", "flax", "what it would do"):
        grid.add_column(heading, overflow="fold")
    for row in rows:
        cells = (row.setting, row.torch, row.flax, row.effect if row.counts else f"note: {row.effect}")
        grid.add_row(*map(escape, cells), style="" if row.counts else "dim")
    return grid


def main(connection: Channel, side: PairSide, options: Options) -> None:
    """The whole life of a side's process: one answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        connection.send(_examined(side, options))
    except BadInput as error:
        connection.send(Bad(str(error)))


def _examined(side: PairSide, options: Options) -> Audited:
    try:
        if side.framework == "torch":
            from parity.pairs import audit_torch as framework
            from parity.pairs.torch_side import set_up
        else:
            from parity.pairs import audit_flax as framework  # type: ignore[no-redef]
            from parity.pairs.flax_side import set_up
    except ModuleNotFoundError as error:
        extra = "torch" if side.framework == "torch" else "jax"
        raise BadInput(f"{error.name!r} is not installed; pip install 'attend-jax[{extra}]'") from None
    set_up(options)  # before the user's file, which may set it otherwise: then a run has it so, too
    try:
        return framework.examine(side)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"it cannot be made: {words(error)}") from None
