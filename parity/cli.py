"""The command line: it parses, calls, prints, and chooses the exit code. Frameworks are loaded in workers only."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from parity.attention import DTYPES, Attention
from parity.errors import BadInput
from parity.results import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE

T = TypeVar("T")

app = typer.Typer(
    name="parity",
    help="Prove that a torch attention and its JAX port are the same function.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXITS = """Exit code: 0 all passed · 1 a mismatch · 2 bad input · 3 an error (a worker died, a bound was NaN) ·
4 nothing compared, or something inconclusive · 130 interrupted (reports are written). Skips do not fail."""
BENCH_EXITS = """Exit code: 0 measured; with --check, every goal that could be judged is met · 1 with --check, a goal is
missed · 2 bad input · 4 nothing measured; with --check, no goal could be judged · 130 interrupted (files are
written)."""

SuiteOption = Annotated[str, typer.Option("--suite", help="smoke, default, edge, workload or full; see `parity list`.")]
CaseOption = Annotated[str | None, typer.Option("--case", help="Glob over case names of all suites, or a whole name.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only what did not pass, and the verdict.")]


# The parser's own errors. Typer has begun to carry its own copy of click, so the class is found by name.
ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@app.command(epilog=EXITS)
def run(
    suite: SuiteOption = "default",
    case: CaseOption = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: your own pair, MODULE:NAME, FILE.py[:NAME] or a folder of parity_*.py. Repeatable."
        ),
    ] = None,
    fuzz: Annotated[int | None, typer.Option(help="Instead of a suite: this many random cases.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the tensors, of --fuzz and of native dropout.", min=0)] = 0,
    reference: Annotated[
        str, typer.Option(help=r"\[torch:|jax:]MODULE:NAME, a class like Attend or a function.")
    ] = "attend_torch:Attend",
    candidate: Annotated[
        str, typer.Option(help=r"\[torch:|jax:]MODULE:NAME, judged against the reference.")
    ] = "attend_jax:Attend",
    implementation: Annotated[str | None, typer.Option(help="NAME,… of the candidate; each runs every case.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Only cases in float32, bfloat16 or float16; NAME,… for several.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default each framework's own choice.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: the i-th of n parts of the cases, from 1.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure or error.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds a side may take for a case.", min=0.1)] = 120.0,
    json: Annotated[Path | None, typer.Option(help="Write a JSON report (docs/report.schema.json).")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report.")] = None,
    save_failures: Annotated[
        Path | None, typer.Option(help="Write the tensors of failed cases here, as safetensors.")
    ] = None,
    quiet: QuietOption = False,
) -> int:
    """Feed identical tensors through both sides; judge outputs and gradients against a float64 truth."""
    from parity.pipeline import Plan
    from parity.process import default_cache_dir
    from parity.report import writers
    from parity.runner import run_and_report, run_fuzz, run_pairs
    from parity.spec import Spec

    dtypes = _names("--dtype", dtype, DTYPES)
    if pair:
        _check_device(device)
        outputs = writers(json=json, junit=junit, save_failures=save_failures)
        plans = _pair_plans(
            pair, case, dtypes, shard, seed=seed, device=device, timeout=timeout, fail_fast=fail_fast,
            cache_dir=default_cache_dir(),
        )  # fmt: skip
        return run_pairs(plans, outputs, quiet=quiet)
    chosen = _choose(suite, case, fuzz, seed, dtypes)
    cases, empty_shard = _shard(chosen, shard)
    _check_device(device)
    implementations = _implementations(implementation)
    outputs = writers(json=json, junit=junit, save_failures=save_failures)
    plan = Plan(
        cases=[attention.case() for attention in cases],
        reference=Spec.parse(reference),
        candidate=Spec.parse(candidate),
        seed=seed,
        device=device,
        implementations=implementations,
        timeout=timeout,
        fail_fast=fail_fast,
        cache_dir=default_cache_dir(),
        empty_shard=empty_shard,
    )
    if fuzz is not None and cases:
        return run_fuzz(plan, cases, outputs, quiet=quiet)
    return run_and_report(plan, outputs, quiet=quiet)


@app.command("list")
def list_(suite: SuiteOption = "default", case: CaseOption = None) -> int:
    """Name the cases of a suite, and the suites."""
    from parity import suites

    for attention in _choose(suite, case, None, 0, ()):
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

    for attention in _choose("full", case, None, 0, ()):
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


@app.command()
def doctor() -> int:
    """Show versions, devices and precision settings of both sides, and whether each can run. Exit 3 if one cannot."""
    from parity.doctor import examine

    return examine()


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

    _suite(suite)
    if json is not None:
        check_writable("--json", json)
    return mutation.main(suite, mutant, seed, json, quiet=quiet)


@app.command(epilog=BENCH_EXITS)
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

    dtypes = _names("--dtype", dtype, DTYPES)
    _check_device(device)
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


def _check_device(device: str | None) -> None:
    if device not in (None, "cpu", "gpu"):
        raise BadInput(f"--device must be cpu or gpu; got {device!r}")


def _names(option: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise BadInput(f"{option} must be one or more of {', '.join(known)}, separated by commas; got {name!r}")
    return names


def _implementations(text: str | None) -> tuple[str, ...]:
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise BadInput(f"--implementation must be NAME or NAME,NAME; got {text!r}")
    return names


def _suite(name: str) -> list[Attention]:
    from parity import suites

    if name not in suites.SUITES:
        raise BadInput(f"--suite must be one of {', '.join(suites.SUITES)}; got {name!r}")
    return list(suites.suite(name))


def _choose(suite: str, glob: str | None, fuzz: int | None, seed: int, dtypes: tuple[str, ...]) -> list[Attention]:
    """The cases that were asked for."""
    if fuzz is not None:
        if glob is not None:
            raise BadInput("--fuzz draws its own cases; leave out --case")
        from parity.fuzz import draw, says_something

        return draw(fuzz, seed, dtypes or DTYPES, lambda case: says_something(case, seed))
    cases = _suite(suite)
    if glob is not None:
        # Prefer the suite that was asked for, then any, then a name that says everything itself.
        cases = _match(cases, glob) or _match(_suite("full") + _suite("workload"), glob)
        if not cases:
            cases = [_by_name(glob)]
    if dtypes:
        kept = [case for case in cases if case.dtype in dtypes]
        if not kept:
            raise BadInput(f"no case that was asked for is in {', '.join(dtypes)}")
        cases = kept
    return cases


def _pair_plans(
    texts: Sequence[str], glob: str | None, dtypes: tuple[str, ...], shard: str | None, *, seed: int, **options: Any
) -> list[Any]:
    """A plan for each pair that has a case to run."""
    from parity.pairs import scout
    from parity.pairs.messages import PairSide
    from parity.pairs.session import PairPlan

    found = scout.find(texts, dtypes)
    names = [case.name for pair in found for case in pair.cases if fnmatch.fnmatchcase(case.name, glob or "*")]
    if not names:
        raise BadInput(f"--case {glob!r} matches no case; there are {' '.join(c.name for p in found for c in p.cases)}")
    wanted = set(_shard(names, shard)[0])
    return [
        PairPlan(
            cases=[case for case in pair.cases if case.name in wanted],
            reference=PairSide(pair.spec, "torch", seed),
            candidate=PairSide(pair.spec, "flax", seed),
            seed=seed,
            notes=tuple(f"differs on purpose: {words}" for words in pair.differs),
            rules=pair.rules,
            **options,
        )
        for pair in found
    ]


def _by_name(name: str) -> Attention:
    """A case that stands in no suite, from its name: a fuzz case, or one made up."""
    if "=" not in name and not name.startswith("fuzz-"):
        raise BadInput(f"--case {name!r} matches no case; see `parity list --suite full`")
    try:
        return Attention.parse(name)
    except ValueError as error:
        raise BadInput(f"--case {name!r} matches no case (see `parity list --suite full`), and {error}") from None


def _match(cases: list[Attention], glob: str) -> list[Attention]:
    found = {case.name: case for case in cases if fnmatch.fnmatchcase(case.name, glob)}
    return list(found.values())


def _shard(cases: list[T], shard: str | None) -> tuple[list[T], bool]:
    if shard is None:
        return cases, False
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f"--shard must be i/n with 1 <= i <= n, as 2/3; got {shard!r}")
    part = cases[int(match[1]) - 1 :: int(match[2])]
    return part, not part


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. A crash of our own exits 3: 1 means a mismatch here, and typer would exit 1."""
    # A job that is cancelled writes its reports as one that is interrupted.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_guarded(lambda: app(list(arguments) if arguments is not None else None, standalone_mode=False)))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _guarded(command: Callable[[], Any]) -> int:
    try:
        return int(command() or 0)
    except BadInput as error:
        typer.echo(f"parity: {error}", err=True)
        return EXIT_USAGE
    except ClickException as error:
        error.show()
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("parity: interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        typer.echo("parity: this is a fault of parity itself, please report it with the lines above", err=True)
        return EXIT_ERROR


if __name__ == "__main__":
    main()
