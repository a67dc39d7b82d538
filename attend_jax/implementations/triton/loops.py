"""Which tiles a program visits: those that the causal corner leaves, and only the edge of them with a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attend_jax.implementations.triton.plan import Plan
from attend_jax.implementations.triton.tiles import Span

Body = Callable[[bool], Callable[[jax.Array, Any], Any]]


def over_columns(plan: Plan, rows: Span, size: int, body: Body, carry: Any, whole: Any = None) -> Any:
    """Over the blocks of columns that some of the rows see: `body(edge)(block, carry)`.

    First those that all rows see in full, then the edge. `whole`, True where some row sees nothing, sends the loop
    over all columns, because such a row attends every key (S4); None when there cannot be one, or it is of no interest.
    """
    columns = plan.problem.kv_len
    full, every = columns // size, -(-columns // size)
    if plan.offset is None:
        carry = lax.fori_loop(jnp.int32(0), jnp.int32(full), body(False), carry)
        return carry if full == every else body(True)(rows.start * 0 + full, carry)
    first, last = rows.start + plan.offset, rows.start + (rows.size - 1 + plan.offset)
    clear = jnp.minimum(lax.div(jnp.maximum(first + 1, 0), jnp.int32(size)), full)
    stop = jnp.minimum(_ceil_div(jnp.maximum(last + 1, 0), size), every)
    if whole is not None:
        stop = jnp.where(whole, every, stop)
    carry = lax.fori_loop(jnp.int32(0), clear, body(False), carry)
    return lax.fori_loop(clear, stop, body(True), carry)


def over_rows(plan: Plan, columns: Span, size: int, body: Body, carry: Any, whole: Any = None) -> Any:
    """Over the blocks of rows that see some of the columns: the edge, then those that see all of them.

    Rows that see nothing attend every key: the first ones when the causal corner makes them, or, where `whole`, any.
    """
    rows = plan.problem.q_len
    every = -(-rows // size)
    if plan.offset is None:
        return lax.fori_loop(jnp.int32(0), jnp.int32(every), body(False), carry)
    first = jnp.maximum(columns.start - plan.offset, 0)  # the first row that sees a column, and that sees all
    last = jnp.maximum(columns.start + (columns.size - 1 - plan.offset), 0)
    start = jnp.minimum(lax.div(first, jnp.int32(size)), every)
    clear = jnp.minimum(_ceil_div(last, size), every)
    if whole is not None:
        start = jnp.where(whole, 0, start)
    elif plan.unseeing:
        carry = lax.fori_loop(jnp.int32(0), jnp.minimum(start, -(-plan.unseeing // size)), body(True), carry)
    carry = lax.fori_loop(start, clear, body(True), carry)
    return lax.fori_loop(clear, jnp.int32(every), body(False), carry)


def _ceil_div(number: jax.Array, by: int) -> jax.Array:
    """Of a traced number that is not negative; `//` would mind its sign."""
    return lax.div(number + (by - 1), jnp.int32(by))
