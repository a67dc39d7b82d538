"""Moving shapes and their noise, all from NumPy and a seed, so that both frameworks see the same numbers.

Whatever step N sees depends on the seed and N alone: a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """A step's `noisy` (b c f h w), `timestep` (b) from 0 to 1, and the `noise` (b c f h w) to be found; float32."""

    noisy: np.ndarray
    timestep: np.ndarray
    noise: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.noisy, self.timestep, self.noise


def videos(rng: np.random.Generator, count: int, channels: int, frames: int, size: int) -> np.ndarray:
    """(count, channels, frames, size, size) from -1 to 1: a disc or a square that moves and bounces off the walls.

    >>> videos(np.random.default_rng(0), 2, 1, 5, 16).shape
    (2, 1, 5, 16, 16)
    """
    radius = rng.uniform(0.12, 0.25, (count, 1, 1)) * size
    start = rng.uniform(0, 1, (count, 1, 2))
    speed = rng.uniform(-0.2, 0.2, (count, 1, 2))
    place = np.abs((start + speed * np.arange(frames)[:, None] + 1) % 2 - 1)  # a line folded between two walls
    place = radius + place * (size - 1 - 2 * radius)
    rows, columns = (np.abs(np.arange(size) - place[..., axis, None]) for axis in (0, 1))
    rows, columns = rows[..., :, None], columns[..., None, :]
    square = rng.integers(0, 2, (count, 1, 1, 1)).astype(bool)
    distance = np.where(square, np.maximum(rows, columns), np.hypot(rows, columns)) - radius[..., None]
    shade = np.clip(0.5 - distance, 0, 1)  # one pixel wide, so that a shape moves by less than a pixel
    colour = rng.uniform(0.5, 1, (count, channels, 1, 1, 1))
    return (2 * colour * shade[:, None] - 1).astype(np.float32)


def signal(timestep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of the video and how much noise there is at a timestep; their squares add up to 1."""
    return np.cos(0.5 * np.pi * timestep), np.sin(0.5 * np.pi * timestep)


def batch(seed: int, step: int, *, count: int, channels: int, frames: int, size: int) -> Batch:
    """What a step trains on."""
    rng = np.random.default_rng((seed, step))
    clean = videos(rng, count, channels, frames, size)
    timestep = rng.uniform(0.02, 0.98, count).astype(np.float32)
    noise = rng.standard_normal(clean.shape).astype(np.float32)
    kept, added = (part.reshape(-1, 1, 1, 1, 1) for part in signal(timestep))
    return Batch((kept * clean + added * noise).astype(np.float32), timestep, noise)
