"""Attention for Flax: the port of `attend_torch`, on the fastest kernel that is exact on the device at hand.

`attend_jax.linen` holds the same module for flax.linen; `dot_product_attention` is the `attention_fn` of Flax's own.
"""

import importlib
from typing import TYPE_CHECKING, Any

from attend_jax.cache import KeyValueCache
from attend_jax.dispatch import Explanation, ImplementationRefused
from attend_jax.functional import attend, explain

__all__ = [
    "Attend",
    "Explanation",
    "ImplementationRefused",
    "KeyValueCache",
    "attend",
    "dot_product_attention",
    "explain",
]

# In modules that need flax.nnx, whose import takes 100 ms: loaded when they are asked for, so not for a Linen model.
_LATER = {"Attend": "attend_jax.module", "dot_product_attention": "attend_jax.flax_attention"}

if TYPE_CHECKING:
    from attend_jax.flax_attention import dot_product_attention
    from attend_jax.module import Attend
else:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)  # and asked for once only
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
