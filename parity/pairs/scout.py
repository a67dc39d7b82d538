"""Which pairs and cases `--pair` means, found out in a process of its own: a user's file imports both frameworks."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence

from parity.channel import Channel
from parity.errors import BadInput
from parity.pairs import load
from parity.pairs.cases import PairCase, cases
from parity.process import LOADING, spawn


@dataclasses.dataclass(frozen=True)
class Found:
    """A pair without its modules."""

    spec: str
    cases: tuple[PairCase, ...]
    rules: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    ignore: tuple[str, ...] = ()


def find(texts: Sequence[str], dtypes: Sequence[str]) -> list[Found]:
    """Every pair that was asked for, each once.

    Raises:
      BadInput: one cannot be found or imported, in words.
    """
    process, connection = spawn(_main, tuple(texts), tuple(dtypes))
    try:
        if not connection.poll(LOADING):
            raise BadInput(f"--pair {' '.join(texts)}: not imported after {LOADING:g} s")
        answer = connection.recv()
    except EOFError:
        raise BadInput(f"--pair {' '.join(texts)}: importing it took the process down") from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        raise BadInput(answer)
    found: list[Found] = answer
    return found


def _main(connection: Channel, texts: Sequence[str], dtypes: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # only looks
    try:
        specs = dict.fromkeys(spec for text in texts for spec in load.named(text))
        found = []
        for spec in specs:
            pair = load.load(spec)
            rules = tuple(tuple(rule) for rule in pair.weights)
            notes = [f"differs on purpose: {words}" for words in pair.differs]
            notes += [f"not compared, as the pair says: {glob}" for glob in pair.ignore]
            found.append(Found(spec, tuple(cases(spec, pair, dtypes)), rules, tuple(notes), tuple(pair.ignore)))
    except BadInput as error:
        connection.send(str(error))
        return
    connection.send(found)
