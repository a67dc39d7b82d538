"""`parity run`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from parity.attention import DTYPES
from parity.cli.app import app
from parity.cli.choice import attention_cases, pair_plans, part
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


@app.command(epilog=EXITS)
def run(
    suite: SuiteOption = "default",
    case: CaseOption = None,
    pair: PairOption = None,
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
    json: JsonOption = None,
    junit: JunitOption = None,
    html: HtmlOption = None,
    markdown: MarkdownOption = None,
    save_failures: Annotated[
        Path | None, typer.Option(help="Write the tensors of failed cases here, as safetensors.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Find the bounds of a --pair anew, and do not keep them.")
    ] = False,
    quiet: QuietOption = False,
) -> int:
    """Feed identical tensors through both sides; judge outputs and gradients against a float64 truth."""
    from parity.pipeline import Plan
    from parity.process import default_cache_dir, default_spreads_dir
    from parity.report import writers
    from parity.runner import run_and_report, run_fuzz, run_pairs
    from parity.spec import Spec

    dtypes = names("--dtype", dtype, DTYPES)
    checked_writers = functools.partial(  # after what to run, which may be wrong, and before it runs
        writers, json=json, junit=junit, html=html, markdown=markdown, save_failures=save_failures, annotate=True
    )
    if pair:
        check_device(device)
        from parity.pairs import worker

        outputs = checked_writers()
        plans = pair_plans(
            pair, case, dtypes, shard, seed=seed, device=device, timeout=timeout, fail_fast=fail_fast,
            cache_dir=default_cache_dir(), spreads=None if no_cache else default_spreads_dir(), worker=worker.main,
        )  # fmt: skip
        return run_pairs(plans, outputs, quiet=quiet)
    chosen = attention_cases(suite, case, fuzz, seed, dtypes)
    cases, empty_shard = part(chosen, shard)
    check_device(device)
    implementations = implementations_of(implementation)
    outputs = checked_writers()
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
        shard=shard,
    )
    if fuzz is not None and cases:
        return run_fuzz(plan, cases, outputs, quiet=quiet)
    return run_and_report(plan, outputs, quiet=quiet)
