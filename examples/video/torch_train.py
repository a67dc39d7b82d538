"""The torch side of the training: a model, its optimiser and one step. `flax_train.py` has the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from .config import Config, Recipe
from .data import Batch
from .torch_model import UNet


class TorchTraining:
    """A U-Net in training; in float64 it is the truth that rounding is measured by.

    Args:
      seed: of the initial weights, drawn in float32 whatever `dtype` says.
      nudged: before each step, move each weight by up to half a unit in its last place, at random.
      compiled: by `torch.compile`.
    """

    def __init__(
        self, config: Config, recipe: Recipe, seed: int, *, dtype: torch.dtype = torch.float32, nudged: int = 0,
        compiled: bool = False, device: str = "cpu",
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.model = UNet(config).to(device, dtype)
        self.recipe, self.dtype, self.device, self.nudged, self.steps = recipe, dtype, device, nudged, 0
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.rate, betas=recipe.betas, eps=recipe.epsilon, weight_decay=recipe.decay,
            fused=self.device.startswith("cuda"),
        )  # fmt: skip
        self.call = torch.compile(self.model) if compiled else self.model

    def step(self, batch: Batch) -> torch.Tensor:
        """One update, and the loss before it."""
        if self.nudged:
            self.nudge()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.steps)
        noisy, timestep, noise = (torch.from_numpy(array).to(self.device, self.dtype) for array in batch.arrays)
        loss = torch.mean((self.call(noisy, timestep) - noise) ** 2)
        self.optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def nudge(self) -> None:
        generator = torch.Generator().manual_seed(1_000_003 * self.nudged + self.steps)
        unit = torch.finfo(self.dtype).eps / 2
        for weight in self.model.parameters():
            weight.mul_(1 + 2 * unit * torch.randint(-1, 2, weight.shape, generator=generator))

    @torch.no_grad()
    def predict(self, noisy: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        return self.model(torch.from_numpy(noisy), torch.from_numpy(timestep)).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds, by name."""
        found = {f"model.{name}": value.numpy() for name, value in self.model.state_dict().items()}
        for n, state in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{n}.{name}": value.numpy() for name, value in state.items()}
        return found

    def load(self, arrays: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from a checkpoint of `steps` steps."""
        model, optimiser = {}, {}
        for name, array in arrays.items():
            side, rest = name.split(".", 1)
            if side == "model":
                model[rest] = torch.from_numpy(array)
            else:
                n, key = rest.split(".")
                optimiser.setdefault(int(n), {})[key] = torch.from_numpy(array)
        self.model.load_state_dict(model)
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": optimiser, "param_groups": groups})
        self.steps = steps
