"""One process a side, as for a pair; its answers say besides which modules there are and in which order they ran."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from parity.channel import Channel
from parity.environment import peak_mib
from parity.messages import Options
from parity.pairs import worker
from parity.pairs.messages import PairSide
from parity.trace.messages import Traced, TraceJob
from parity.worker import words


def main(connection: Channel, side: PairSide, options: Options) -> None:
    """The whole life of a worker process."""
    worker.main(connection, side, options, package="parity.trace", run=_run)


def _run(module: Any, job: TraceJob) -> Traced:
    start = time.perf_counter()
    try:
        found: Traced = module.trace(job)
    except BaseException as error:  # a module may raise SystemExit or KeyboardInterrupt as well
        found = Traced(job.key, raised=module.place() + words(error))
    return dataclasses.replace(found, seconds=time.perf_counter() - start, peak_mib=peak_mib())
