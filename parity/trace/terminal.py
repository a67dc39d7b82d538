"""A trace on a console: the answer on one line, then the table."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.compare import Verdict
from parity.trace.messages import ROOT
from parity.trace.results import AGREES, DIFFERS, WRONG, Row, Trace

_STYLES = {WRONG: "bold red", AGREES: "dim", DIFFERS: "yellow"}


def answer(trace: Trace) -> str:
    """One line."""
    if not trace.rows:
        return f"{'first bad module' if trace.raised else trace.status}: {trace.reason}"
    compared = f"{len(trace.rows)} calls of {len({row.call.where for row in trace.rows})} modules compared"
    if trace.first is None:
        left = f"{compared}, {len(trace.left_out)} not aligned" + (" (listed)" if trace.left_out else "")
        return f"inconclusive: {left}" if trace.status == "inconclusive" else f"no divergence: {left}"
    row = trace.first
    direction = row.backward if trace.backward else row.forward
    which = " on the way back" if trace.backward else ""
    words = f"first bad module{which}: {_module(row)}: wrong by itself"
    verdict = direction.alone or direction.place
    words += f" (error/bound {number(verdict)})" if verdict is not None else ""
    if direction.given is not None:
        agree = "agrees" if trace.backward else "agree"
        agree = agree if direction.given.status != "failed" else agree.replace("agree", "differ", 1)
        given = "its output's gradient" if trace.backward else "inputs"
        words += f"; {given} {agree} (error/bound {number(direction.given)})"
    if trace.inner is not None:
        inner = trace.inner.backward if trace.backward else trace.inner.forward
        side = "behind" if trace.backward else "before"
        words += f"; it starts {side} {trace.inner.call.where} (error/bound {number(inner.given)})"
    if verdict is not None and verdict.reason and not verdict.max_error < float("inf"):
        words += f"; {verdict.reason}"
    return words + (f"; likely {trace.cause}" if trace.cause else "")


def number(verdict: Verdict | None) -> str:
    """error / bound, short."""
    if verdict is None:
        return ""
    if verdict.status == "inconclusive":
        return "?"
    return f"{verdict.bound_ratio:.3g}" if verdict.bound_ratio < 10 else f"{verdict.bound_ratio:,.0f}"


def print_trace(console: Console, trace: Trace, *, quiet: bool) -> None:
    console.print(f"[bold]{escape(trace.case)}[/]", highlight=False, soft_wrap=True)
    console.print(escape(answer(trace)), highlight=False, soft_wrap=True)
    if quiet or not trace.rows:
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("torch", "Flax"):
        grid.add_column(heading, overflow="fold")
    for heading in ("in place", "alone", "back in place", "back alone"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("back" if trace.backward else "")
    for row in trace.rows:
        direction = row.backward if trace.backward else row.forward
        silent = "" if direction.alone is not None or not direction.words else f" ({direction.words})"
        torch, flax = _shown(row.call.torch), _shown(row.call.flax)
        grid.add_row(
            torch, "" if torch == flax else flax,
            number(row.forward.place), number(row.forward.alone), number(row.backward.place),
            number(row.backward.alone), escape(direction.state + silent), style=_STYLES.get(direction.state, ""),
        )  # fmt: skip
    console.print(grid)
    for words in trace.left_out:
        console.print(f"not aligned: {escape(words)}", highlight=False, soft_wrap=True)
    for words in trace.notes:
        console.print(f"note: {escape(words)}", highlight=False, soft_wrap=True)


def _shown(call: str) -> str:
    path, _, count = call.partition("#")
    if call == ROOT:
        return "(all)"
    return escape(path if count == "0" else f"{path}, call {int(count) + 1}")


def _module(row: Row) -> str:
    if row.call.torch == ROOT:
        return f"the whole model ({row.call.torch_module.kind}) <-> ({row.call.flax_module.kind})"
    torch, flax = (call.partition("#")[0] for call in (row.call.torch, row.call.flax))
    return f"{torch} ({row.call.torch_module.kind}) <-> {flax} ({row.call.flax_module.kind})"
