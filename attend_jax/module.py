"""`Attend` for flax.nnx: it only keeps the options and calls `attend`."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from attend_jax.dispatch import NAMES
from attend_jax.functional import attend
from attend_jax.validation import check_options, one_of


class Attend(nnx.Module):
    """The attention core of a text-to-video U-Net, as `attend_torch.Attend`.

    Dropout works the nnx way: `train()` switches it on, `eval()` off, `nnx.view(model, deterministic=...)` in a copy;
    `rngs` holds a "dropout" stream.

    Args:
      dropout: share of the softmax's weights that is dropped in training.
      flash: kept for the port: it decides the corner of `causal=True`, as in the original: upper left with it (S8),
        lower right without (S3). They differ whenever q_len != kv_len; say `causal="lower_right"` or
        "upper_left" to have the same in both (S10). It does not choose the kernel: `implementation` does.
      causal: False, True, "lower_right" or "upper_left".
      scale: multiplies the scores; None means head_dim ** -0.5.
      layout: "bhnd", or "bnhd" (JAX's own) for query, key, value and output.
      implementation: "auto", "blockwise", "cudnn", "einsum" or "triton"; see `attend_jax.explain`.
      precision: of the products, as `attend_jax.attend` has it.
      sharding: how query is cut along the axes of a mesh, as `attend_jax.attend` has it.
      rngs: needed where `dropout` is used with no `rngs` in the call.

    >>> import jax.numpy as jnp
    >>> module = Attend(dropout=0.1, causal=True, rngs=nnx.Rngs(0))
    >>> module.eval()
    >>> q, k, v = jnp.ones((2, 8, 5, 64)), jnp.ones((2, 8, 7, 64)), jnp.ones((2, 8, 7, 32))
    >>> module(q, k, v, bias=jnp.zeros((8, 5, 7))).shape
    (2, 8, 5, 32)
    """

    def __init__(
        self,
        dropout: float = 0.0,
        flash: bool = False,
        causal: bool | str = False,
        *,
        scale: float | None = None,
        layout: str = "bhnd",
        implementation: str = "auto",
        precision: Any = None,
        sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> None:
        check_options(causal=causal, scale=scale, dropout_rate=dropout, layout=layout, precision=precision)
        one_of("implementation", implementation, NAMES)
        self.dropout = dropout
        self.flash = flash
        self.causal = causal
        self.scale = scale
        self.layout = layout
        self.implementation = implementation
        self.precision = precision
        self.sharding = sharding
        self.deterministic = False
        if isinstance(rngs, nnx.Rngs) and dropout > 0:
            rngs = rngs["dropout"]
        self.rngs = nnx.data(rngs.fork() if isinstance(rngs, nnx.RngStream) and dropout > 0 else None)

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` calls: deterministic=True switches dropout off.

        Args:
          deterministic: whether no weights are dropped; None leaves it as it is.
        """
        if deterministic is not None:
            self.deterministic = deterministic

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
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Any:
        """See `attend_jax.attend`; `deterministic` and `rngs` take precedence over the module's own."""
        evaluating = self.deterministic if deterministic is None else deterministic
        rate = 0.0 if evaluating else self.dropout
        key = None
        if rate > 0 and dropout_mask is None:
            rngs = self.rngs if rngs is None else rngs
            if rngs is None:
                raise ValueError(
                    f"`rngs` must be given to train with dropout={self.dropout}; got None. Build the module with "
                    "rngs=nnx.Rngs(dropout=seed), pass rngs= in the call, or call .eval() on the model."
                )
            stream = rngs["dropout"] if isinstance(rngs, nnx.Rngs) else rngs
            key = stream() if isinstance(stream, nnx.RngStream) else stream
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
