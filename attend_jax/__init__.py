"""Attention for Flax: the port of `attend_torch`, on the fastest kernel that is exact on the device at hand.

`attend_jax.linen` holds the same module for flax.linen; `dot_product_attention` is the `attention_fn` of Flax's own.
"""

from attend_jax.cache import KeyValueCache
from attend_jax.dispatch import Explanation, ImplementationRefused
from attend_jax.flax_attention import dot_product_attention
from attend_jax.functional import attend, explain
from attend_jax.module import Attend

__all__ = [
    "Attend",
    "Explanation",
    "ImplementationRefused",
    "KeyValueCache",
    "attend",
    "dot_product_attention",
    "explain",
]
