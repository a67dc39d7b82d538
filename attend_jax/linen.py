"""`Attend` for flax.linen: it only keeps the options and calls `attend`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import linen
from jaxtyping import Array, Bool, Float

from attend_jax.dispatch import NAMES
from attend_jax.functional import attend
from attend_jax.validation import check_options, one_of


class Attend(linen.Module):
    """The attention core of a text-to-video U-Net, as `attend_torch.Attend`; options as `attend_jax.Attend`.

    Dropout works the Linen way: `deterministic` in the constructor or the call, and `make_rng("dropout")`.

    >>> import jax.numpy as jnp
    >>> module = Attend(dropout=0.1, causal=True)
    >>> q, k, v = jnp.ones((2, 8, 5, 64)), jnp.ones((2, 8, 7, 64)), jnp.ones((2, 8, 7, 32))
    >>> module.apply({}, q, k, v, deterministic=True).shape
    (2, 8, 5, 32)
    """

    dropout: float = 0.0
    flash: bool = False
    causal: bool | str = False
    _: dataclasses.KW_ONLY
    scale: float | None = None
    layout: str = "bhnd"
    implementation: str = "auto"
    precision: Any = None
    sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None
    deterministic: bool | None = None

    def __post_init__(self) -> None:
        check_options(
            causal=self.causal,
            scale=self.scale,
            dropout_rate=self.dropout,
            layout=self.layout,
            precision=self.precision,
        )
        one_of("implementation", self.implementation, NAMES)
        super().__post_init__()

    @linen.compact
    def __call__(
        self,
        q: Float[Array, "b h i d"],
        k: Float[Array, "b hk j d"],
        v: Float[Array, "b hk j e"],
        bias: Float[Array, ...] | None = None,
        *,
        mask: Bool[Array, ...] | None = None,
        dropout_mask: Bool[Array, "b h i j"] | None = None,
        return_logsumexp: bool = False,
        deterministic: bool | None = None,
    ) -> Any:
        """See `attend_jax.attend`; `deterministic` is needed, here or in the constructor, where dropout > 0."""
        rate = self.dropout
        if rate > 0 and linen.merge_param("deterministic", self.deterministic, deterministic):
            rate = 0.0
        key = None
        if rate > 0 and dropout_mask is None:
            if not self.has_rng("dropout"):
                raise ValueError(
                    f"a 'dropout' rng must be given to train with dropout={self.dropout}; got none. Pass "
                    "rngs={'dropout': jax.random.key(seed)} to apply, or deterministic=True."
                )
            key = self.make_rng("dropout")
        return attend(
            q,
            k,
            v,
            bias,
            mask=mask,
            causal="upper_left" if self.flash and self.causal is True else self.causal,
            scale=self.scale,
            dropout_rate=rate,
            dropout_rng=key,
            dropout_mask=dropout_mask,
            layout=self.layout,
            return_logsumexp=return_logsumexp,
            implementation=self.implementation,
            precision=self.precision,
            sharding=self.sharding,
        )
