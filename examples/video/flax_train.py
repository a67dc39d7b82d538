"""The Flax side of the training: a model, its optimiser and one step. `torch_train.py` has the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from .config import Config, Recipe
from .data import Batch
from .flax_model import Options, UNet, blank

PLAIN = Options()


@cache  # the same object for the same recipe, so that a second training is not compiled again
def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """`torch.optim.AdamW` after `clip_grad_norm_`, with every number said: the defaults of optax are others."""
    first, last, steps = recipe.rate_at(0), recipe.rate, recipe.warm_up - 1
    return optax.chain(
        clip_by_global_norm(recipe.clip),
        optax.adamw(
            optax.linear_schedule(first, last, steps) if steps else last,
            b1=recipe.betas[0], b2=recipe.betas[1], eps=recipe.epsilon, weight_decay=recipe.decay,
        ),
    )  # fmt: skip


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """As torch has it: divided by the norm and 1e-6. optax's own leaves the 1e-6 out, a difference above rounding."""

    def update(
        gradients: optax.Updates, state: optax.OptState, _: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(1.0, largest / (optax.tree.norm(gradients) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * factor, gradients), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


@nnx.jit
def train_step(
    model: UNet, optimizer: nnx.Optimizer, noisy: jax.Array, timestep: jax.Array, noise: jax.Array
) -> jax.Array:
    """One update, and the loss before it."""

    def loss_of(model: UNet) -> jax.Array:
        return jnp.mean((model(noisy, timestep) - noise) ** 2)

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


@nnx.jit
def predict(model: UNet, noisy: jax.Array, timestep: jax.Array) -> jax.Array:
    return model(noisy, timestep)


class FlaxTraining:
    """A U-Net in training. Its weights are zeros until they come from torch or from a checkpoint."""

    def __init__(self, config: Config, recipe: Recipe, options: Options = PLAIN) -> None:
        self.model = blank(lambda: UNet(config, options, rngs=nnx.Rngs(0)))
        self.optimizer = nnx.Optimizer(self.model, optimiser(recipe), wrt=nnx.Param)
        self.steps = 0

    @cached_property  # made at the first step: what is changed in the model until then is in it
    def train_step(self) -> Callable[..., jax.Array]:
        """The step of this model and optimiser, which are walked through once here and not in every step."""
        return nnx.cached_partial(train_step, self.model, self.optimizer)

    def step(self, batch: Batch) -> jax.Array:
        """One update, and the loss before it: a number still being made, until it is looked at."""
        loss = self.train_step(*batch.arrays)
        self.steps += 1
        return loss

    def predict(self, noisy: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        return np.asarray(predict(self.model, noisy, timestep))

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds, by name."""
        state = nnx.to_flat_state(nnx.state((self.model, self.optimizer)))
        return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}

    def load(self, arrays: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from a checkpoint of `steps` steps."""
        both = (self.model, self.optimizer)
        state = nnx.to_flat_state(nnx.state(both))
        loaded = [(path, leaf.replace(jnp.asarray(arrays[".".join(map(str, path))]))) for path, leaf in state]
        nnx.update(both, nnx.from_flat_state(loaded))
        self.steps = steps
