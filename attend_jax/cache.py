"""Keys and values of what came before, for causal attention one step at a time (inference)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attend_jax.functional import attend
from attend_jax.validation import LAYOUTS, check_tensors, one_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """The keys and values so far, in arrays of a fixed length, the capacity.

    A pytree, and every method returns a new one: carry it through `jax.lax.scan`, or keep it in an `nnx.Cache`.
    Steps of any length: a prompt at once, then one at a time.

    Attributes:
      key, value: (b, hk, capacity, d) and (b, hk, capacity, e), or (b, capacity, hk, ...) in layout "bnhd".
      length: int32, how many of them are filled.
      layout: "bhnd" or "bnhd".

    >>> query = key = value = jax.random.normal(jax.random.key(0), (2, 8, 5, 64))
    >>> def step(cache, frame):
    ...     query, key, value = frame
    ...     cache = cache.append(key, value)
    ...     return cache, cache.attend(query)
    >>> frames = [jnp.stack(jnp.split(x, 5, axis=2)) for x in (query, key, value)]
    >>> cache, outputs = jax.lax.scan(step, KeyValueCache.zeros(key.shape), frames)
    >>> bool(jnp.allclose(jnp.concatenate(outputs, axis=2), attend(query, key, value, causal=True), atol=1e-5))
    True
    """

    key: Float[Array, "b hk n d"]
    value: Float[Array, "b hk n e"]
    length: Int[Array, ""]
    layout: str = dataclasses.field(default="bhnd", metadata={"static": True})

    @classmethod
    def zeros(
        cls,
        key_shape: tuple[int, ...],
        value_shape: tuple[int, ...] | None = None,
        *,
        dtype: Any = jnp.float32,
        layout: str = "bhnd",
    ) -> KeyValueCache:
        """An empty one. The shapes are those of all keys and all values; a value is shaped as a key if not said.

        Raises:
          ValueError: a shape without 4 axes, or shapes that differ in more than the last.
        """
        one_of("layout", layout, LAYOUTS)
        value_shape = key_shape if value_shape is None else value_shape
        if not len(key_shape) == len(value_shape) == 4 or tuple(key_shape[:3]) != tuple(value_shape[:3]):
            raise ValueError(
                f"`key_shape` and `value_shape` must have 4 axes ({' '.join(layout)}) and differ in the last only; "
                f"got {tuple(key_shape)} and {tuple(value_shape)}."
            )
        return cls(jnp.zeros(key_shape, dtype), jnp.zeros(value_shape, dtype), jnp.zeros((), jnp.int32), layout)

    @property
    def capacity(self) -> int:
        return self.key.shape[self._axis]

    @property
    def _axis(self) -> int:
        return self.layout.index("n")

    def append(self, key: Float[Array, "b hk n d"], value: Float[Array, "b hk n e"]) -> KeyValueCache:
        """With these keys and values after those that are there.

        Raises:
          TypeError, ValueError: another dtype or shape than the cache's, the length aside; more than the capacity.
            Under jit, where nobody knows how full it is, `attend` gives NaN instead.
        """
        for name, array, held in (("key", key, self.key), ("value", value, self.value)):
            if array.dtype != held.dtype:
                raise TypeError(f"`{name}` must have the cache's dtype {held.dtype}; got {array.dtype}. Convert it.")
            if array.ndim != 4 or self._of_one(array.shape) != self._of_one(held.shape):
                raise ValueError(
                    f"`{name}` must have the cache's shape {held.shape} ({' '.join(self.layout)}), the length aside; "
                    f"got {array.shape}."
                )
        added = key.shape[self._axis]
        if value.shape[self._axis] != added:
            raise ValueError(f"key and value must have the same length; got {added} and {value.shape[self._axis]}.")
        full = (0 if isinstance(self.length, jax.core.Tracer) else int(self.length)) + added
        if full > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity}; got {added} more, {full} in all. Make it with a larger capacity."
            )

        def put(held: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(held, new, self.length, self._axis)

        return KeyValueCache(put(self.key, key), put(self.value, value), self.length + added, self.layout)

    def attend(
        self,
        query: Float[Array, "b h i d"],
        bias: Float[Array, ...] | None = None,
        *,
        mask: Bool[Array, ...] | None = None,
        scale: float | jax.Array | None = None,
        implementation: str = "auto",
        precision: Any = None,
    ) -> Float[Array, "b h i e"]:
        """What the last i queries attend to: as `attend(..., causal="lower_right")` over what has been appended.

        Append the queries' own keys and values first. `bias` and `mask` have all the capacity's columns; their rows are
        those of these queries. The rest is as in `attend_jax.attend`, in the cache's layout.

        Raises:
          TypeError, ValueError: as `attend`; more queries than keys so far. Under jit that gives NaN, as an overfull
            cache does.
        """
        check_tensors(query, self.key, self.value, bias, mask, None, layout=self.layout, dropout_rate=0.0)
        rows = query.shape[self._axis]
        if not isinstance(self.length, jax.core.Tracer) and rows > int(self.length):
            raise ValueError(
                f"there must be at least as many keys as queries; got {rows} queries and {int(self.length)} keys. "
                "Append the queries' own keys and values before attending."
            )
        last = self.length - rows + jnp.arange(rows)
        seen = jnp.arange(self.capacity) <= last[:, None]
        if mask is not None:
            seen = seen & mask
        output = attend(
            query,
            self.key,
            self.value,
            bias,
            mask=seen,
            scale=scale,
            layout=self.layout,
            implementation=implementation,
            precision=precision,
        )
        if mask is not None:  # a row that may attend nothing: uniform over what is filled (S4), the rest being zeros
            empty = ~jnp.any(seen, axis=-1, keepdims=True).reshape((1,) * (4 - seen.ndim) + (*seen.shape[:-1], 1))
            if self.layout == "bnhd":
                empty = jnp.swapaxes(empty, 1, 2)
            output = jnp.where(empty, output * (self.capacity / self.length).astype(output.dtype), output)
        return jnp.where((rows <= self.length) & (self.length <= self.capacity), output, jnp.nan)

    def _of_one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size for axis, size in enumerate(shape) if axis != self._axis)
