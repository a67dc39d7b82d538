"""What the tests of attend_jax share: a device that claims to have cuDNN, and a look at what is lowered for it."""

from __future__ import annotations

import re

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused_attention
import pytest

from attend_jax import dispatch


@pytest.fixture
def with_cudnn(monkeypatch):
    """JAX believes that there is a cuDNN 9.10 and a GPU new enough for everything (TRAPS: works in jax 0.10.2)."""
    monkeypatch.setattr(dispatch, "_has_cuda", lambda: True)
    monkeypatch.setattr(fused_attention, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention, "check_compute_capability", lambda capability: True)


@pytest.fixture
def lowered(with_cudnn):  # noqa: ARG001
    """The StableHLO of a function for a platform, on a machine that need not have one."""

    def text(function, *shapes, platform="cuda"):
        return jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()

    return text


@pytest.fixture
def kernels(lowered):
    """The names of the cuDNN calls in what is lowered: "Forward", "Backward", with "Bias" where they take one."""
    names = {"": "Forward", "Backward": "Backward", "ScaleBias": "ForwardBias", "ScaleBiasBackward": "BackwardBias"}

    def calls(function, *shapes, platform="cuda"):
        text = lowered(function, *shapes, platform=platform)
        found = re.findall(r"@__cudnn\$fmha(\w*?)Softmax(\w*)\(", text)
        return [names[before + after] for before, after in found]

    return calls
