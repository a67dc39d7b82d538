"""Which implementation runs, and the words for why."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import attend_jax
from attend_jax import dispatch
from attend_jax.problem import Problem

SHAPE = jax.ShapeDtypeStruct((2, 3, 5, 8), jnp.bfloat16)
PROBLEM = Problem(batch=2, heads=3, kv_heads=3, q_len=5, kv_len=5, head_dim=8, value_dim=8, dtype=jnp.dtype("bfloat16"))

NO_CUDNN, NO_CUDA = "cuDNN is not detected", "there is no CUDA device"


def custom_calls(lowered, **options):
    return "__cudnn$" in lowered(lambda q, k, v: attend_jax.attend(q, k, v, **options), SHAPE, SHAPE, SHAPE)


def test_one_of_the_table_runs_everywhere_and_refuses_nothing():
    (last,) = (row for row in dispatch.TABLE if row.platform is None)
    for problem in (PROBLEM, Problem(0, 0, 0, 0, 0, 1, 0, jnp.dtype("float32"), dropout="rng", return_logsumexp=True)):
        assert last.refusal(problem) is None


def test_names_are_auto_and_the_rows_of_the_table():
    assert set(dispatch.NAMES) == {"auto"} | {row.name for row in dispatch.TABLE}
    assert dispatch.NAMES[0] == "auto"


def test_auto_and_cudnn_by_name_lower_to_the_kernel_and_einsum_does_not(lowered):
    assert custom_calls(lowered)
    assert custom_calls(lowered, implementation="cudnn")
    assert not custom_calls(lowered, implementation="einsum")


def test_auto_gives_einsum_what_cudnn_refuses(lowered):
    assert not custom_calls(lowered, return_logsumexp=True)
    assert not custom_calls(lowered, dropout_rate=0.5, dropout_rng=jax.random.key(0))


def test_auto_is_einsum_bit_for_bit_on_a_cpu():
    query = jnp.asarray(jax.random.normal(jax.random.key(0), SHAPE.shape), SHAPE.dtype)
    auto, einsum = (attend_jax.attend(query, query, query, causal=True, implementation=x) for x in ("auto", "einsum"))
    assert (auto == einsum).all()


@pytest.mark.usefixtures("with_cudnn")
def test_auto_runs_on_a_cpu_though_a_gpu_could_do_more():
    # One trace holds both; the platform is known at lowering only.
    query = jnp.ones(SHAPE.shape, SHAPE.dtype)
    assert (jax.jit(attend_jax.attend)(query, query, query) == 1).all()


def test_explain_says_what_runs_and_why_not_the_others():
    explanation = attend_jax.explain(SHAPE, SHAPE, SHAPE)
    assert explanation == attend_jax.Explanation(
        "einsum",
        "the first of cudnn, einsum, triton that can do this",
        {"cudnn": NO_CUDNN, "triton": NO_CUDA},
    )
    assert str(explanation) == (
        "einsum runs: the first of cudnn, einsum, triton that can do this\n"
        "  cudnn: cuDNN is not detected\n"
        "  triton: there is no CUDA device"
    )


@pytest.mark.usefixtures("with_cudnn")
def test_explain_goes_by_the_default_device(monkeypatch):
    why = attend_jax.explain(SHAPE, SHAPE, SHAPE).others["cudnn"]
    assert why == "exists on cuda only; the default device is cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    explanation = attend_jax.explain(SHAPE, SHAPE, SHAPE)
    assert explanation.implementation == "cudnn"
    later = "able, but comes later in the table"
    assert explanation.others == {"einsum": later, "triton": NO_CUDA}


@pytest.mark.parametrize(
    ("implementation", "reason", "others"),
    [
        ("einsum", "asked for by name", {"cudnn": NO_CUDNN, "triton": NO_CUDA}),
        ("cudnn", f"refused: {NO_CUDNN}", {"einsum": "able, but comes later in the table", "triton": NO_CUDA}),
    ],
)
def test_explain_of_one_asked_for_by_name(implementation, reason, others):
    explanation = attend_jax.explain(SHAPE, SHAPE, SHAPE, implementation=implementation)
    assert explanation == attend_jax.Explanation(implementation, reason, others)


def test_explain_checks_the_call_as_attend_does():
    with pytest.raises(ValueError, match="the same head size"):
        attend_jax.explain(SHAPE, jax.ShapeDtypeStruct((2, 3, 5, 9), jnp.bfloat16), SHAPE)


def test_explain_takes_a_bias_and_a_mask_as_shapes():
    bias, mask = jax.ShapeDtypeStruct((5, 5), jnp.float32), jax.ShapeDtypeStruct((5,), bool)
    assert attend_jax.explain(SHAPE, SHAPE, SHAPE, bias, mask=mask).implementation == "einsum"


def test_a_refusal_names_the_reason_and_the_way_out():
    query = jnp.ones(SHAPE.shape, jnp.float32)
    with pytest.raises(attend_jax.ImplementationRefused) as error:
        attend_jax.attend(query, query, query, implementation="cudnn")
    assert isinstance(error.value, ValueError)
    assert str(error.value) == (
        "implementation='cudnn' cannot do this: takes float16 and bfloat16 only; got float32. "
        "Use implementation='auto' or 'einsum'."
    )
