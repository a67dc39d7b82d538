"""Videos out of noise, by the deterministic sampler (DDIM), in NumPy for both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .data import signal

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sample(predict: Predict, shape: tuple[int, ...], seed: int, *, steps: int = 25) -> np.ndarray:
    """Videos (b c f h w) from -1 to 1, by a `predict` of the noise in (b c f h w) at timesteps (b)."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    for now, after in pairwise(np.linspace(0.98, 0.02, steps + 1)):
        noise = predict(x, np.full(shape[0], now, np.float32))
        kept, added = signal(now)
        clean = np.clip((x - added * noise) / kept, -1, 1)
        noise = (x - kept * clean) / added
        kept, added = signal(after)
        x = (kept * clean + added * noise).astype(np.float32)
    return clean
