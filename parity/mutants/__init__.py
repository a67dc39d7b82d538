"""The catalogue that the judge is judged by: wrong ports that people write, and honest ones that only round otherwise.

`port.py` is a right port cut into steps; a row of `wrong.py` or `honest.py` replaces some. Each is a class of its own, so
`parity run --candidate parity.mutants:causal_upper_left` shows what a user would see.
"""

from __future__ import annotations

from parity.mutants.honest import HONEST
from parity.mutants.mutant import Mutant
from parity.mutants.port import Port
from parity.mutants.wrong import WRONG

__all__ = ["CATALOGUE", "HONEST", "WRONG", "Mutant", "Port"]

CATALOGUE = {mutant.name: mutant for mutant in (*WRONG, *HONEST)}


def __getattr__(name: str) -> type[Port]:
    if name in CATALOGUE:
        return CATALOGUE[name].build()
    raise AttributeError(name)


def __dir__() -> list[str]:
    return [*globals(), *CATALOGUE]
