"""`parity doctor`: can both sides run here, on what, and with which precision?"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from parity.environment import machine, versions
from parity.messages import Options
from parity.pipeline import DEFAULT_CANDIDATE, DEFAULT_REFERENCE
from parity.process import Side
from parity.results import EXIT_ERROR
from parity.spec import BadSpec, Spec


def examine() -> int:
    """Print it all; 0 if both sides can run, else 3."""
    console = Console(highlight=False, soft_wrap=True)
    _section(console, "machine", machine())
    _section(console, "installed", versions())
    reference = _side(console, "torch side", DEFAULT_REFERENCE, Options())
    candidate = _side(console, "JAX side", DEFAULT_CANDIDATE, Options())
    if candidate is not None:
        for name in ("einsum", "cudnn", "triton"):
            why_not = _refusal(name)
            console.print(f"  implementation {name}: {'[green]runs here[/]' if why_not is None else escape(why_not)}")
        _advise(console, candidate)
    return 0 if reference is not None and candidate is not None else EXIT_ERROR


def _section(console: Console, title: str, facts: dict[str, str]) -> None:
    console.print(f"[bold]{title}[/]")
    for name, value in facts.items():
        console.print(f"  {name}: {escape(value)}")


def _side(console: Console, title: str, spec: str, options: Options) -> dict[str, str] | None:
    try:
        facts = _environment(spec, options)
    except BadSpec as error:
        console.print(f"[bold]{title}[/] [bold red]cannot run[/]: {escape(str(error))}")
        return None
    console.print(f"[bold]{title}[/] [green]ready[/]")
    for name, value in facts.items():
        console.print(f"  {name}: {escape(value)}")
    return facts


def _environment(spec: str, options: Options) -> dict[str, str]:
    side = Side(Spec.parse(spec), options, label=spec, timeout=60)
    try:
        return dict(side.hello().environment)
    finally:
        side.close()


def _refusal(implementation: str) -> str | None:
    try:
        _environment(DEFAULT_CANDIDATE, Options(implementations=(implementation,)))
    except BadSpec as error:
        return str(error).split(": ", 2)[-1]
    return None


def _advise(console: Console, jax: dict[str, str]) -> None:
    """Settings that change results without a word."""
    if jax["jax_default_matmul_precision"] != "None":
        console.print(
            "  [yellow]jax_default_matmul_precision is set: it decides the precision of products, and attend_jax "
            "follows it[/]"
        )
    elif jax["jax device"] != "cpu":
        console.print(
            "  [yellow]JAX multiplies fp32 in TF32 on a GPU by default; attend_jax does not, other modules do[/]"
        )
