"""Which implementation runs, and the words for why."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import jax
import jax.numpy as jnp
import pytest

import attend_jax
from attend_jax import dispatch
from attend_jax.implementations import blockwise, cudnn, einsum, tokamax
from attend_jax.implementations.triton import plan
from attend_jax.problem import Problem, Result

NO_TOKAMAX = "reads beyond lengths that are no multiples of 128; got 5 and 5"
NO_CUDNN, NO_CUDA = "cuDNN is not detected", "there is no CUDA device"
TINY, LONG = (jax.ShapeDtypeStruct((2, 3, length, 8), jnp.bfloat16) for length in (5, 200))
BIG = jax.ShapeDtypeStruct((1, 8, 8192, 64), jnp.float32)  # scores of 2 GiB

FP32, BF16, FP64 = map(jnp.dtype, ("float32", "bfloat16", "float64"))
PROBLEM = Problem(2, 3, 3, 200, 200, 64, 64, BF16, platform="cuda")
CPU = dataclasses.replace(PROBLEM, platform="cpu")


def but(problem, **edits):
    return dataclasses.replace(problem, **edits)


@pytest.fixture
def with_gpu(with_cudnn, monkeypatch):  # noqa: ARG001
    """Nothing of what exists on CUDA only is refused for want of a device."""
    monkeypatch.setattr(plan, "_unavailable", lambda: None)
    monkeypatch.setattr(tokamax, "_unavailable", lambda: None)
    monkeypatch.setattr(cudnn, "_unavailable", lambda problem: None)


def test_some_of_the_table_run_everywhere_and_refuse_nothing():
    anywhere = [row for row in dispatch.TABLE if row.platform is None]
    assert {row.name for row in anywhere} == {"einsum", "blockwise"}
    empty = Problem(0, 0, 0, 0, 0, 1, 0, FP32, dropout="rng", return_logsumexp=True)
    assert [row.refusal(problem) for row in anywhere for problem in (PROBLEM, CPU, empty)] == [None] * 6


def test_names_are_auto_and_the_rows_of_the_table():
    assert ("auto", *sorted(row.name for row in dispatch.TABLE)) == dispatch.NAMES


# For each row of CHOICES a problem that comes to it.
CHOSEN = [
    but(PROBLEM, q_len=64, kv_len=64),
    but(PROBLEM, q_len=1, kv_len=4000, dtype=FP32),
    PROBLEM,
    but(PROBLEM, bias_shape=(1, 3, 200, 200)),
    but(PROBLEM, head_dim=136, bias_shape=(1, 3, 200, 200)),
    but(PROBLEM, dtype=FP64),
    but(CPU, kv_len=128, q_len=4000),
    CPU,
]


@pytest.mark.parametrize("row", range(len(dispatch.CHOICES)), ids=lambda row: dispatch.CHOICES[row].reason)
@pytest.mark.usefixtures("with_gpu")
def test_every_row_of_the_choices_is_taken_by_some_problem(row):
    assert dispatch.choose(CHOSEN[row]) is dispatch.CHOICES[row]


NEIGHBOURS = [
    # (a problem, what auto takes for it): one step beyond a row's condition, another row.
    (but(PROBLEM, q_len=64, kv_len=65), "cudnn"),
    (but(PROBLEM, q_len=2, kv_len=4000), "cudnn"),
    (but(PROBLEM, q_len=1, kv_len=4000), "triton"),
    (but(PROBLEM, q_len=64, kv_len=64, dtype=FP32), "einsum"),
    (but(PROBLEM, dtype=FP32, dropout="rng", dropout_rate=0.1), "triton"),
    (but(PROBLEM, q_len=2, kv_len=4000, causal="lower_right"), "triton"),
    (but(PROBLEM, dtype=FP32), "triton"),
    (but(PROBLEM, head_dim=128, dtype=FP32), "triton"),
    (but(PROBLEM, head_dim=128, bias_shape=(3, 1, 1, 1)), "triton"),
    (but(PROBLEM, head_dim=128, dropout="rng", dropout_rate=0.1), "triton"),
    (but(PROBLEM, head_dim=128, return_logsumexp=True), "triton"),
    (but(PROBLEM, head_dim=136, dtype=FP32), "einsum"),
    (but(PROBLEM, head_dim=136, dtype=FP32, batch=1, heads=8, q_len=5792, kv_len=5800), "blockwise"),
    (but(PROBLEM, dtype=FP64, batch=32, heads=8, q_len=1, kv_len=2**20), "blockwise"),
    (but(PROBLEM, q_len=0), "einsum"),
    (but(CPU, kv_len=129), "blockwise"),
    (but(CPU, q_len=1, kv_len=129), "blockwise"),
    (but(CPU, kv_len=0), "einsum"),
    (but(CPU, platform="tpu"), "blockwise"),
]


@pytest.mark.parametrize(("problem", "name"), NEIGHBOURS)
@pytest.mark.usefixtures("with_gpu")
def test_a_step_beyond_a_rule_is_another_rule(problem, name):
    assert dispatch.choose(problem).implementation == name


def problems():
    """A grid over what rules and refusals go by."""
    lengths = [(0, 5), (5, 0), (1, 7), (64, 64), (129, 128), (128, 129), (8192, 8192), (1, 2**20)]
    grid = itertools.product(
        lengths, ["cpu", "cuda", "rocm", "tpu"], [FP32, BF16, FP64], [(64, 64), (128, 0), (136, 136), (300, 8)],
        [{}, {"bias_shape": (1, 4, 1, 1), "bias_dtype": FP32}, {"dropout": "rng", "dropout_rate": 0.1},
         {"return_logsumexp": True, "causal": "lower_right", "mask_shape": (1, 1, 1, 1)},
         {"precision": jax.lax.Precision.HIGHEST, "layout": "bnhd"}],
    )  # fmt: skip
    for (q_len, kv_len), platform, dtype, (head_dim, value_dim), features in grid:
        yield Problem(2, 4, 2, q_len, kv_len, head_dim, value_dim, dtype, platform=platform, **features)


@pytest.mark.parametrize("device", ["a GPU", "none"])
def test_auto_never_refuses_and_never_holds_scores_beyond_the_limit(device, request):
    if device == "a GPU":
        request.getfixturevalue("with_gpu")
    table = {row.name: row for row in dispatch.TABLE}
    chosen = {}
    for problem in problems():
        name = dispatch.choose(problem).implementation
        assert table[name].platform in (None, problem.platform)
        assert table[name].refusal(problem) is None
        assert name != "einsum" or dispatch.scores_bytes(problem) <= dispatch.QUADRATIC_LIMIT
        chosen.setdefault(problem.platform, set()).add(name)
    assert chosen["cpu"] == chosen["rocm"] == chosen["tpu"] == {"blockwise", "einsum"}
    assert chosen["cuda"] == (
        {"blockwise", "cudnn", "einsum", "triton"} if device == "a GPU" else {"blockwise", "einsum"}
    )


def test_a_symbolic_batch_counts_as_one():
    (batch,) = jax.export.symbolic_shape("b")
    assert dispatch.scores_bytes(but(CPU, batch=batch)) == 4 * 3 * 200 * 200
    assert dispatch.choose(but(CPU, batch=batch)).implementation == "blockwise"
    assert dispatch.choose(but(CPU, batch=batch, kv_len=7)).implementation == "einsum"


def test_einsum_by_name_beyond_the_limit_warns_with_the_size_at_the_callers_line():
    with pytest.warns(UserWarning, match="several times when differentiated") as caught:
        jax.eval_shape(lambda x: attend_jax.attend(x, x, x, implementation="einsum"), BIG)
    (warning,) = caught
    assert str(warning.message) == (
        "implementation='einsum' holds scores of shape (1, 8, 8192, 8192) in memory, 2.0 GiB, several times when "
        "differentiated; 'auto' and 'blockwise' need memory linear in the length."
    )
    assert warning.filename == __file__


@pytest.mark.parametrize("implementation", ["auto", "blockwise"])
def test_the_others_do_not_warn(implementation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(lambda x: attend_jax.attend(x, x, x, implementation=implementation), BIG)


def lowered_kernels(lowered, shape, platform="cuda", **options):
    text = lowered(lambda q, k, v: attend_jax.attend(q, k, v, **options), shape, shape, shape, platform=platform)
    return {name for name, call in {"cudnn": "__cudnn$", "triton": "attend_forward_kernel"}.items() if call in text}


@pytest.mark.usefixtures("with_gpu")
def test_what_is_chosen_is_what_is_lowered(lowered):
    wide = jax.ShapeDtypeStruct((2, 3, 200, 128), jnp.bfloat16)
    assert lowered_kernels(lowered, LONG) == lowered_kernels(lowered, wide) == {"cudnn"}
    assert lowered_kernels(lowered, LONG, dropout_rate=0.5, dropout_rng=jax.random.key(0)) == {"triton"}
    assert lowered_kernels(lowered, wide, return_logsumexp=True) == {"triton"}
    assert lowered_kernels(lowered, TINY) == {"triton"}
    assert lowered_kernels(lowered, TINY, implementation="einsum") == set()
    assert lowered_kernels(lowered, TINY, implementation="cudnn") == {"cudnn"}
    assert lowered_kernels(lowered, LONG, implementation="einsum") == set()
    assert lowered_kernels(lowered, LONG, implementation="blockwise") == set()
    assert lowered_kernels(lowered, LONG, platform="cpu") == set()


@pytest.mark.parametrize(("length", "name"), [(128, "einsum"), (129, "blockwise")])
def test_auto_is_what_it_chooses_bit_for_bit(length, name):
    query = jax.random.normal(jax.random.key(0), (1, 2, length, 8))
    auto, named = (
        jax.jit(lambda x, how=how: attend_jax.attend(x, x, x, causal=True, implementation=how))(query)
        for how in ("auto", name)
    )
    assert (auto == named).all()


@pytest.mark.usefixtures("with_gpu")
def test_auto_runs_on_a_cpu_though_a_gpu_could_do_more():
    # One trace holds both; the platform is known at lowering only.
    query = jnp.ones(LONG.shape, LONG.dtype)
    assert (jax.jit(attend_jax.attend)(query, query, query) == 1).all()


def test_explain_says_what_runs_and_why_not_the_others():
    explanation = attend_jax.explain(TINY, TINY, TINY)
    assert explanation == attend_jax.Explanation(
        "einsum",
        "short: the scores stay in the cache",
        {
            "blockwise": "able, but not chosen: auto keeps it for other sizes (long: memory linear in the length)",
            "cudnn": NO_CUDNN,
            "tokamax": NO_TOKAMAX,
            "triton": NO_CUDA,
        },
    )
    assert str(explanation) == (
        "einsum runs: short: the scores stay in the cache\n"
        "  blockwise: able, but not chosen: auto keeps it for other sizes (long: memory linear in the length)\n"
        "  cudnn: cuDNN is not detected\n"
        f"  tokamax: {NO_TOKAMAX}\n"
        "  triton: there is no CUDA device"
    )


def test_explain_names_the_size_that_keeps_einsum_from_running():
    explanation = attend_jax.explain(BIG, BIG, BIG)
    assert explanation.implementation == "blockwise"
    assert explanation.others["einsum"] == "able, but not chosen: its scores would take 2.0 GiB"


@pytest.mark.usefixtures("with_gpu")
def test_explain_goes_by_the_default_device(monkeypatch):
    others = attend_jax.explain(LONG, LONG, LONG).others
    assert others["cudnn"] == others["triton"] == "exists on cuda only; the default device is cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    explanation = attend_jax.explain(LONG, LONG, LONG)
    assert explanation.implementation == "cudnn"
    assert set(explanation.others) == {"blockwise", "einsum", "tokamax", "triton"}


@pytest.mark.parametrize("device", ["a GPU", "none"])
def test_explain_has_a_reason_for_every_implementation(device, request, monkeypatch):
    if device == "a GPU":
        request.getfixturevalue("with_gpu")
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for problem in itertools.islice(problems(), 0, None, 7):  # 7 divides the length of no axis
        for name in dispatch.NAMES:
            explanation = dispatch.explain(but(problem, platform=None), name)
            assert explanation.reason
            assert {explanation.implementation, *explanation.others} == {row.name for row in dispatch.TABLE}
            assert all(explanation.others.values())
            assert name in ("auto", explanation.implementation)


@pytest.mark.parametrize(
    ("implementation", "reason"),
    [("einsum", "asked for by name"), ("blockwise", "asked for by name"), ("cudnn", f"refused: {NO_CUDNN}")],
)
def test_explain_of_one_asked_for_by_name(implementation, reason):
    explanation = attend_jax.explain(TINY, TINY, TINY, implementation=implementation)
    assert (explanation.implementation, explanation.reason) == (implementation, reason)
    assert explanation.others["triton"] == NO_CUDA


def test_explain_checks_the_call_as_attend_does():
    with pytest.raises(ValueError, match="the same head size"):
        attend_jax.explain(TINY, jax.ShapeDtypeStruct((2, 3, 5, 9), jnp.bfloat16), TINY)


def test_explain_takes_a_bias_and_a_mask_as_shapes():
    bias, mask = jax.ShapeDtypeStruct((5, 5), jnp.float32), jax.ShapeDtypeStruct((5,), bool)
    assert attend_jax.explain(TINY, TINY, TINY, bias, mask=mask).implementation == "einsum"


def test_a_refusal_names_the_reason_and_the_way_out():
    query = jnp.ones(TINY.shape, jnp.float32)
    with pytest.raises(attend_jax.ImplementationRefused) as error:
        attend_jax.attend(query, query, query, implementation="cudnn")
    assert isinstance(error.value, ValueError)
    assert str(error.value) == (
        "implementation='cudnn' cannot do this: takes float16 and bfloat16 only; got float32. "
        "Use implementation='auto' or 'einsum'."
    )


HIGHEST, SPLIT = jax.lax.Precision.HIGHEST, jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3


@pytest.mark.parametrize(
    ("platform", "dtype", "users", "expected"),
    [
        ("cpu", FP32, None, HIGHEST),
        ("tpu", FP32, None, HIGHEST),
        ("rocm", FP32, None, HIGHEST),
        ("cuda", FP32, None, SPLIT),
        ("cuda", FP64, None, HIGHEST),
        ("cpu", BF16, None, None),
        ("cuda", BF16, None, None),
        ("cpu", FP32, "default", "default"),
        ("cuda", FP32, HIGHEST, HIGHEST),
        ("cuda", BF16, HIGHEST, HIGHEST),
    ],
)
def test_products_are_fp32_on_every_platform_unless_the_user_says_otherwise(platform, dtype, users, expected):
    here = dispatch.on(but(PROBLEM, platform=None, dtype=dtype, precision=users), platform)
    assert (here.platform, here.precision) == (platform, expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_precision_set_for_all_of_jax_is_left_alone(platform):
    with jax.default_matmul_precision("tensorfloat32"):
        assert dispatch.on(but(PROBLEM, platform=None, dtype=FP32), platform).precision is None


@pytest.mark.usefixtures("with_gpu")
def test_each_platform_of_a_program_gets_its_own_precision(monkeypatch):
    # einsum and blockwise by name: one trace, a branch a platform.
    for module in (einsum, blockwise):
        seen = []

        def run(problem, operands, seen=seen):
            seen.append((problem.platform, problem.precision))
            return Result(operands.query)

        name = module.__name__.rpartition(".")[2]
        monkeypatch.setitem(dispatch._BY_NAME, name, dispatch.Implementation(name, None, lambda problem: None, run))
        x = jax.ShapeDtypeStruct(TINY.shape, FP32)
        jax.eval_shape(lambda x, name=name: attend_jax.attend(x, x, x, implementation=name), x)
        assert sorted(seen) == [("cpu", HIGHEST), ("cuda", SPLIT)]
