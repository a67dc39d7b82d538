"""An attention case through `attend_jax.attend`, judged against the float64 truth; what several tests here share."""

from __future__ import annotations

import functools

import jax
import numpy as np

import attend_jax
from parity import criterion, tensors
from parity.attention import Attention

# Compiled once and run once: the compiler's own time is what these tests take.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def call(case, arrays, **options):
    """Output, log-sum-exp and gradients by name, as a function to be compiled, and its arguments."""
    options |= {key: value for key, value in case.arguments.items() if key not in ("dropout", "flash")}
    dropout_mask = arrays.get("dropout_mask")
    if dropout_mask is not None:
        options["dropout_rate"] = case.arguments["dropout"]
    if "dropout_rng" in options:
        dropout_mask = None
    inputs = {spec.name: arrays[spec.name] for spec in case.tensors if spec.role == "input" and spec.dtype != "bool"}
    cotangents = {name: array for name, array in arrays.items() if name.startswith("cotangent")}

    def run(inputs, mask, dropout_mask, cotangents):
        def function(inputs):
            out = attend_jax.attend(**inputs, mask=mask, dropout_mask=dropout_mask, **options)
            return dict(zip(("output", "logsumexp"), out if isinstance(out, tuple) else (out,), strict=False))

        out, vjp = jax.vjp(function, inputs)
        (gradients,) = vjp({name: cotangents["cotangent_" + name] for name in out})
        return out | {"d" + name: array for name, array in gradients.items()}

    return run, (inputs, arrays.get("mask"), dropout_mask, cotangents)


def within(case, arrays, actual):
    """Everything is within the criterion's bound, without help from a reference's own error."""
    for name, expected in criterion.attention(case, arrays).items():
        assert actual[name].dtype == expected.dtype
        found, truth = np.asarray(actual[name]).astype(np.float64), expected.truth
        finite = np.isfinite(truth)
        np.testing.assert_array_equal(found[~finite], truth[~finite], err_msg=name)
        assert (np.abs(found[finite] - truth[finite]) <= 4 * expected.width[finite]).all(), name


def gives_the_truth(name, **options):
    """Raise unless the case of this name does, with these options of `attend` besides its own."""
    case = Attention.parse(name).case()
    arrays = tensors.make(case, 0)
    run, arguments = call(case, arrays, **options)
    within(case, arrays, jit(run)(*arguments))
