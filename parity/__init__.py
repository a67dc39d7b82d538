"""Prove that two modules, one in torch and one in JAX, are the same function. The command is `parity`.

A user's own pair of modules is a `Pair` with its `Input`s; `parity run --pair FILE.py:NAME` judges it. `transfer` moves
weights from one module to the other.
"""

from typing import TYPE_CHECKING, Any

from parity.pairs.pair import Input, Pair

if TYPE_CHECKING:
    from parity.weights import transfer

__all__ = ["Input", "Pair", "transfer"]


def __getattr__(name: str) -> Any:
    """`transfer` when it is asked for: the command line starts without it."""
    if name != "transfer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from parity.weights import transfer

    return transfer
