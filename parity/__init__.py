"""Prove that two modules, one in torch and one in JAX, are the same function. The command is `parity`.

A user's own pair of modules is a `Pair` with its `Input`s; `parity run --pair FILE.py:NAME` judges it, and so do, in a
program or a test, `check` and `assert_parity`. `check_attention` judges an attention. `transfer` moves weights from one
module to the other.
"""

import importlib
from typing import TYPE_CHECKING, Any

from parity.pairs.pair import Input, Pair

if TYPE_CHECKING:
    from parity.checks import assert_parity, check, check_attention
    from parity.weights import transfer

__all__ = ["Input", "Pair", "assert_parity", "check", "check_attention", "transfer"]

# Imported when they are asked for: a file of pairs and the command line start without them.
_LATER = {
    "assert_parity": "parity.checks",
    "check": "parity.checks",
    "check_attention": "parity.checks",
    "transfer": "parity.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
