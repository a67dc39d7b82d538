"""`parity record`, `parity replay` and `parity compare`: a reference's results kept in a file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from parity.attention import DTYPES
from parity.cli.app import app
from parity.cli.choice import attention_cases, pair_plans
from parity.cli.options import (
    EXITS,
    CaseOption,
    HtmlOption,
    JsonOption,
    JunitOption,
    MarkdownOption,
    PairOption,
    QuietOption,
    SuiteOption,
    check_device,
    implementations_of,
    names,
)
from parity.errors import BadInput

GoldenArgument = Annotated[Path, typer.Argument(metavar="F", help="The golden, a safetensors file.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or gpu; by default the framework's choice.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds a side may take for a case.", min=0.1)]

RECORDED = """Exit code: 0 recorded · 2 bad input · 3 a case cost the reference's worker and is not in the file ·
4 nothing recorded · 130 interrupted: what there was is in F.partial, and F is as it was."""
COMPARED = "Exit code: 0 equal within the bound, or bit for bit · 1 not so, or not to be told · 2 bad input"


@app.command(epilog=RECORDED)
def record(
    file: GoldenArgument,
    suite: SuiteOption = "smoke",
    case: CaseOption = None,
    pair: PairOption = None,
    seed: Annotated[int, typer.Option(help="Of the tensors.", min=0)] = 0,
    reference: Annotated[
        str, typer.Option(help=r"\[torch:|jax:]MODULE:NAME, a class like Attend or a function.")
    ] = "attend_torch:Attend",
    dtype: Annotated[str | None, typer.Option(help="Only cases in float32, bfloat16 or float16; NAME,…")] = None,
    device: DeviceOption = None,
    timeout: TimeoutOption = 120.0,
    quiet: QuietOption = False,
) -> int:
    """Run the reference alone and write its results, its inputs and the truth into one file, for `parity replay`."""
    from parity.goldens import command
    from parity.goldens.record import AttentionRecord, as_records
    from parity.report import check_writable
    from parity.spec import Spec

    dtypes = names("--dtype", dtype, DTYPES)
    check_device(device)
    check_writable("F", file)
    if pair:
        plans = as_records(pair_plans(pair, case, dtypes, None, seed=seed, device=device, timeout=timeout))
        return command.record(plans, file, quiet=quiet)
    cases = [attention.case() for attention in attention_cases(suite, case, None, seed, dtypes)]
    spec = Spec.parse(reference)
    plan = AttentionRecord(cases=cases, reference=spec, candidate=spec, seed=seed, device=device, timeout=timeout)
    return command.record([plan], file, quiet=quiet)


@app.command(epilog=EXITS)
def replay(
    file: GoldenArgument,
    candidate: Annotated[
        str, typer.Option(help=r"\[torch:|jax:]MODULE:NAME, judged by a golden of attention.")
    ] = "attend_jax:Attend",
    pair: Annotated[
        str | None, typer.Option("--pair", help="FILE.py[:NAME] or MODULE:NAME, instead of the pair that was recorded.")
    ] = None,
    implementation: Annotated[str | None, typer.Option(help="NAME,… of the candidate; each runs every case.")] = None,
    case: Annotated[str | None, typer.Option("--case", help="Glob over the names of the golden's cases.")] = None,
    device: DeviceOption = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure or error.")] = False,
    timeout: TimeoutOption = 120.0,
    json: JsonOption = None,
    junit: JunitOption = None,
    html: HtmlOption = None,
    markdown: MarkdownOption = None,
    quiet: QuietOption = False,
) -> int:
    """Judge a candidate by a golden, as `parity run` would beside the reference itself; that needs no torch."""
    from parity.goldens import command
    from parity.goldens.choice import attention_plan, pair_replays
    from parity.goldens.file import read
    from parity.goldens.golden import ATTENTION
    from parity.process import default_cache_dir
    from parity.report import writers
    from parity.spec import Spec

    check_device(device)
    golden = read(file)
    options = {"device": device, "timeout": timeout, "fail_fast": fail_fast, "cache_dir": default_cache_dir()}
    checked_writers = functools.partial(writers, json=json, junit=junit, html=html, markdown=markdown, annotate=True)
    if golden.kind == ATTENTION:
        if pair is not None:
            raise BadInput(f"{file} is a golden of attention; judge --candidate MODULE:NAME by it, not --pair")
        implementations = implementations_of(implementation)
        plan = attention_plan(
            file, golden, case, candidate=Spec.parse(candidate), implementations=implementations, **options
        )
        return command.replay([plan], checked_writers(), quiet=quiet)
    if implementation is not None:
        raise BadInput(f"{file} is a golden of pairs, whose modules have no --implementation")
    plans = pair_replays(file, golden, case, pair, **options)
    return command.replay(plans, checked_writers(), quiet=quiet)


@app.command(epilog=COMPARED)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A golden, or any safetensors file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What is judged by it.")],
    ulps: Annotated[int, typer.Option(help="What two numbers of plain files may be apart.", min=0)] = 0,
    quiet: QuietOption = False,
) -> int:
    """Compare two files of tensors by name: by the bounds of A where A is a golden, else number by number."""
    from parity.goldens import compare as comparison

    return comparison.main(first, second, ulps, quiet=quiet)
