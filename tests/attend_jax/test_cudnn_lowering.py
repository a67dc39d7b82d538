"""What is lowered for CUDA, which needs no GPU: that cuDNN's kernel is called, how often, and with nothing around it.

That what it is handed gives the right numbers is in test_cudnn.py.
"""

from __future__ import annotations

import functools
import re

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused_attention
import jax.numpy as jnp
import pytest

import attend_jax
from attend_jax import private

attend = functools.partial(attend_jax.attend, implementation="cudnn")  # what auto chooses is in test_dispatch.py


def shapes(q_len, kv_len, *, heads=6, kv_heads=6, head_dim=64, value_dim=64, layout="bhnd", dtype="bfloat16"):
    def shape(heads, length, features):
        pair = (heads, length) if layout == "bhnd" else (length, heads)
        return jax.ShapeDtypeStruct((2, *pair, features), dtype)

    return shape(heads, q_len, head_dim), shape(kv_heads, kv_len, head_dim), shape(kv_heads, kv_len, value_dim)


def gradient(function):
    """Of everything floating."""

    def loss(*arrays):
        return function(*arrays).astype(jnp.float32).sum()

    return lambda *arrays: jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)


ONE, TWO = 1, 2  # calls of the kernel
LOWERINGS = [
    ("square", shapes(16, 16), {}, ONE),
    ("odd", shapes(13, 17), {}, ONE),
    ("fp16", shapes(16, 16, dtype="float16"), {}, ONE),
    ("causal square", shapes(16, 16), {"causal": True}, ONE),
    ("causal odd square", shapes(17, 17), {"causal": True}, ONE),
    ("lower right, wide", shapes(12, 16), {"causal": "lower_right"}, ONE),
    ("lower right, much wider", shapes(4, 64), {"causal": "lower_right"}, TWO),
    ("lower right, tall", shapes(16, 12), {"causal": "lower_right"}, ONE),
    ("upper left, wide", shapes(12, 16), {"causal": "upper_left"}, ONE),
    ("upper left, tall", shapes(16, 12), {"causal": "upper_left"}, TWO),
    ("one query", shapes(1, 16), {"causal": True}, ONE),
    ("grouped", shapes(16, 16, kv_heads=2), {}, ONE),
    ("one key head", shapes(16, 16, kv_heads=1), {"causal": True}, ONE),
    ("e < d", shapes(16, 16, value_dim=32), {}, ONE),
    ("e > d", shapes(16, 16, head_dim=20), {}, ONE),
    ("bnhd", shapes(16, 16, layout="bnhd"), {}, ONE),
]


@pytest.mark.parametrize(("arrays", "options", "count"), [row[1:] for row in LOWERINGS], ids=[r[0] for r in LOWERINGS])
def test_every_rectangle_and_layout_reaches_the_kernel_with_its_gradient(kernels, arrays, options, count):
    function = functools.partial(attend, **options)
    assert kernels(gradient(function), *arrays) == ["Forward"] * count + ["Backward"] * count
    assert kernels(function, *arrays) == ["Forward"] * count


FORMS = [(6, 16, 16), (16, 16), (2, 1, 16, 16), (2, 6, 1, 16), (1, 1, 1, 16), (2, 6, 16, 1), (16,)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_form_of_bias_reaches_the_kernel_with_its_gradient(kernels, form, dtype):
    function = functools.partial(attend, causal=True)
    bias = jax.ShapeDtypeStruct(form, dtype)
    assert kernels(gradient(function), *shapes(16, 16), bias) == ["ForwardBias", "BackwardBias"]


@pytest.mark.parametrize("form", [(6, 13, 17), (17,), (2, 1, 13, 1)])
def test_a_mask_reaches_the_kernel_as_a_bias(kernels, form):
    def function(query, key, value):
        return attend(query, key, value, mask=jnp.ones(form, bool), causal=True)

    assert kernels(gradient(function), *shapes(13, 17)) == ["ForwardBias", "BackwardBias"]


def test_much_longer_keys_are_not_padded_to_a_square(lowered):
    text = lowered(functools.partial(attend, causal=True), *shapes(8, 128))
    assert "ScaleBias" not in text
    assert re.findall(r"@__cudnn.* : \((tensor<2x\w*?xbf16>), (tensor<2x\w*?xbf16>)", text) == [
        ("tensor<2x6x8x64xbf16>", "tensor<2x6x120x64xbf16>"), ("tensor<2x6x8x64xbf16>", "tensor<2x6x8x64xbf16>")
    ]  # fmt: skip


def test_the_logsumexp_has_the_gradient_of_the_kernel(kernels):
    def loss(*arrays):
        output, logsumexp = attend(*arrays, return_logsumexp=True)
        return output.astype(jnp.float32).sum() + logsumexp.sum()

    assert kernels(jax.grad(loss, argnums=(0, 1, 2)), *shapes(16, 16)) == ["Forward", "Backward"]
    assert jax.eval_shape(functools.partial(attend, return_logsumexp=True), *shapes(16, 16))[1].dtype == jnp.float32


def test_a_mask_alone_costs_no_gradient_of_a_bias(lowered):
    def function(query, key, value):
        return attend(query, key, value, mask=jnp.ones((16, 16), bool))

    assert re.search(r"fmhaScaleBiasSoftmaxBackward.* -> \((tensor<2x6x16x64xbf16>, ){3}tensor<\d+xui8>\)",
                     lowered(gradient(function), *shapes(16, 16)))  # fmt: skip


def test_vmap_of_the_gradient_reaches_the_kernel(kernels, lowered):
    function = functools.partial(attend, causal=True)
    one = shapes(13, 17)
    many = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in one]
    bias = jax.ShapeDtypeStruct((6, 13, 17), jnp.bfloat16)
    assert kernels(jax.vmap(gradient(function), in_axes=0), *many) == ["Forward", "Backward"]
    assert "tensor<6x6x18x64xbf16>" in lowered(jax.vmap(function), *many)  # three examples of two are a batch of six
    expected = ["ForwardBias", "BackwardBias"]
    assert kernels(jax.vmap(gradient(function), in_axes=(0, 0, 0, None)), *many, bias) == expected
    mixed = jax.vmap(gradient(function), in_axes=(0, None, None, None))
    assert kernels(mixed, many[0], *one[1:], bias) == expected
    out = jax.eval_shape(mixed, many[0], *one[1:], bias)
    assert [x.shape for x in out] == [(3, *x.shape) for x in (*one, bias)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("differentiated", [False, True], ids=["forward", "backward"])
def test_a_plain_case_is_what_bare_jax_lowers(lowered, causal, differentiated):
    # The same custom calls with the same configuration and operand layouts; as many transposes, so none of ours.
    arrays = shapes(16, 16, layout="bnhd")
    ours = functools.partial(attend, causal=causal, layout="bnhd")
    bare = functools.partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")
    if differentiated:
        ours, bare = gradient(ours), gradient(bare)
    mine, theirs = (lowered(f, *arrays) for f in (ours, bare))

    def calls(text):
        # from the name on: the operands' numbers may differ
        return [line.split("custom_call")[1].split(") {", 1)[1] for line in text.splitlines() if "__cudnn$" in line]

    assert calls(mine) == calls(theirs) != []
    assert mine.count("stablehlo.transpose") == theirs.count("stablehlo.transpose")
    assert not re.search(r"stablehlo.pad .* (low|high) = \[[^\]]*[1-9]", mine)


REFUSALS = [
    ("takes float16 and bfloat16 only; got float32", {"dtype": "float32"}, {}),
    ("takes no empty arrays", {"q_len": 0}, {}),
    ("takes no empty arrays", {"value_dim": 0}, {}),
    ("its dropout is not a function of the key", {}, {"dropout_rate": 0.1, "dropout_rng": jax.random.key(0)}),
]


@pytest.mark.parametrize(("reason", "sizes", "options"), REFUSALS)
@pytest.mark.usefixtures("with_cudnn")
def test_what_the_kernel_cannot_do_is_refused_with_a_reason_and_done_by_auto(reason, sizes, options):
    query, key, value = (jnp.ones(x.shape, x.dtype) for x in shapes(**({"q_len": 4, "kv_len": 4} | sizes)))
    with pytest.raises(attend_jax.ImplementationRefused, match=reason):
        attend_jax.attend(query, key, value, implementation="cudnn", **options)
    attend_jax.attend(query, key, value, **options)


def test_without_cudnn_the_refusal_is_in_jax_own_words():
    query, key, value = (jnp.ones(x.shape, x.dtype) for x in shapes(4, 4))
    with pytest.raises(ValueError, match=r"implementation='cudnn' cannot do this: cuDNN is not detected\. Use"):
        attend_jax.attend(query, key, value, implementation="cudnn")


@pytest.mark.usefixtures("with_cudnn")
def test_a_head_size_beyond_the_kernel_is_refused():
    query, key, value = shapes(4, 4, head_dim=260)
    why = attend_jax.explain(query, key, value).others["cudnn"]
    assert "260" in why or "264" in why


def moved(text):
    """The transposes that move something."""
    return [dims for dims in re.findall(r"stablehlo.transpose .*, dims = (\[.*?\])", text) if dims != "[0, 1, 2, 3]"]


@pytest.mark.parametrize("causal", [False, True])
def test_bhnd_reaches_the_kernel_without_a_transpose(kernels, lowered, causal):
    # For bnhd, test_a_plain_case_is_what_bare_jax_lowers.
    function = gradient(functools.partial(attend, causal=causal))
    assert kernels(function, *shapes(16, 16)) == ["Forward", "Backward"]
    assert moved(lowered(function, *shapes(16, 16))) == []


def test_without_the_private_functions_the_public_one_does_what_it_can(kernels, lowered, monkeypatch):
    assert private.cudnn().exact, "JAX changed what attend_jax.private wraps: adapt it or drop it"
    monkeypatch.setattr(private, "cudnn", lambda: private.Cudnn(*private._public(), exact=False))
    function = gradient(attend)
    assert kernels(function, *shapes(16, 16)) == ["Forward", "Forward", "Backward"]
    assert moved(lowered(function, *shapes(16, 16)))
    assert kernels(functools.partial(attend, causal=True), *shapes(4, 64)) == ["Forward"]
    with pytest.raises(attend_jax.ImplementationRefused, match="is rounded to 16 bits"):
        attend(*shapes(4, 4), return_logsumexp=True)


@pytest.mark.parametrize("change", ["a parameter", "a name"])
def test_the_private_functions_are_used_only_as_they_are_known(change, monkeypatch):
    name = "_dot_product_attention_fwd_rule"
    if change == "a name":
        monkeypatch.delattr(fused_attention, name)
    else:
        monkeypatch.setattr(fused_attention, name, lambda query, key, value, bias, novelty: None)
    private.cudnn.cache_clear()
    assert not private.cudnn().exact
    monkeypatch.undo()
    private.cudnn.cache_clear()
    assert private.cudnn().exact
