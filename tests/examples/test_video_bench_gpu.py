"""What the bench of a GPU has in attention's place, and what it names."""

from __future__ import annotations

import numpy as np
import torch

from examples.video import bench_gpu


def test_both_sides_hand_on_the_same_in_attentions_place() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 3, 4, 5), dtype=np.float32)
    key, value = (rng.standard_normal((2, 3, 6, 5), dtype=np.float32) for _ in range(2))
    bias = rng.standard_normal((3, 4, 6), dtype=np.float32)
    ours = bench_gpu.FlaxHandOn()(query, key, value, bias)
    theirs = bench_gpu.TorchHandOn()(*map(torch.from_numpy, (query, key, value, bias)))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


def test_a_share_of_attention_is_between_sides_that_are_timed() -> None:
    assert {*bench_gpu.WITHOUT, *bench_gpu.WITHOUT.values()} <= bench_gpu.SIDES.keys()
