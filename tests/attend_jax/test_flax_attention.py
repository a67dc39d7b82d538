"""`dot_product_attention` as the `attention_fn` of Flax's multi-head attention, against Flax's own."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding, PartitionSpec

from attend_jax import attend, dot_product_attention, dropout
from parity import compare, criterion, tensors
from parity.attention import Attention
from tests.judge import jit

BATCH, FRAMES, HEADS, LENGTH, FEATURES = 2, 3, 4, 7, 32


def normal(*shape):
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


IS_CAUSAL = pytest.mark.skipif(
    "is_causal" not in inspect.signature(nnx.MultiHeadAttention.__call__).parameters,
    reason="the module of this flax has no is_causal",
)


# Against Flax's own function, for output and gradients, by the parity criterion.

CASES = [
    "S1,b=6,i=7,j=11,e=5,bias=hij",
    "S1,b=6,i=7,j=11,bias=bhij,dtype=bfloat16",
    "S8,b=6,causal=upper_left",
    "S8,b=6,i=7,j=11,causal=upper_left,bias=hij,dtype=bfloat16",
    "S2,b=6,bias=b1ij,dtype=bfloat16,bias_dtype=float32",
    "S2,b=6,bias=hij,bias_dtype=bfloat16",
    "S12,b=6,i=7,j=11,mask=b11j,bias=11ij",
    "S12,b=6,mask=bhij,values=empty-row",
    "S12,b=6,mask=b1ij,values=empty-row,dtype=bfloat16",
    "S12,b=6,mask=ij,causal=upper_left",
    "S13,b=6,kv=2,mask=b1ij",
]


def results(function, arrays, batch):
    """Output and gradients of a `dot_product_attention`, with the first axis split into these batch axes."""

    def several(array):
        return array.reshape(*batch, *array.shape[1:]) if array.ndim == 4 and array.shape[0] != 1 else array

    def one(array, like):
        return array.reshape(like.shape)

    inputs = {name: several(arrays[name]) for name in ("query", "key", "value", "bias") if name in arrays}
    extras = {"mask": several(arrays["mask"])} if "mask" in arrays else {}
    output, vjp = jax.vjp(lambda inputs: function(**inputs, **extras), inputs)
    (gradients,) = vjp(several(arrays["cotangent_output"]))
    found = {"output": one(output, arrays["cotangent_output"])}
    return found | {f"d{name}": one(gradient, arrays[name]) for name, gradient in gradients.items()}


@pytest.mark.parametrize("name", CASES)
def test_it_is_flaxs_function(name):
    case = Attention.parse(name + ",layout=bnhd").case()
    arrays = tensors.make(case, 0)
    causal = {"is_causal": case.arguments.get("causal") == "upper_left"}
    # With a dropout rate Flax takes its own einsums, and without one those of jax.nn, which want e = d.
    einsums = {"dropout_rate": 0.1, "deterministic": True} if "e=" in name else {}
    ours = functools.partial(dot_product_attention, **causal)
    theirs = functools.partial(nnx.dot_product_attention, **causal, **einsums)
    both = jit(lambda arrays: (results(theirs, arrays, (6,)), results(ours, arrays, (2, 3))))(arrays)
    reference, candidate = jax.tree.map(np.asarray, both)
    verdicts = compare.compare(criterion.attention(case, arrays), reference, candidate)
    assert [(found.quantity, found.reason) for found in verdicts if found.status != "passed"] == []
    assert {found.quantity for found in verdicts} == set(candidate)


@pytest.mark.parametrize("shape", [(5, 4, 8), (1, 5, 4, 8), (2, 1, 3, 5, 4, 8), (2, 0, 5, 4, 8)], ids=str)
def test_any_number_of_batch_axes(shape):
    query, key, value = (normal(n, *shape)[0] for n in (1, 2, 3))
    batch = shape[:-3]
    bias, mask = normal(4, 5, 5), normal(*(1 if n else size for n, size in enumerate(batch)), 1, 5, 5) > -1
    einsums = functools.partial(nnx.dot_product_attention, dropout_rate=0.1, deterministic=True)
    found, expected = (jit(function)(query, key, value, bias, mask) for function in (dot_product_attention, einsums))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == shape


def test_bias_and_mask_broadcast_over_each_batch_axis():
    query, key, value = (normal(n, 2, 3, 5, 4, 8)[0] for n in (1, 2, 3))
    leading = [(), (3,), (1, 1), (2, 1), (1, 3), (2, 3)]
    biases, masks = [normal(*axes, 4, 1, 5) for axes in leading], [normal(*axes, 1, 5, 5) > -1 for axes in leading]

    def gradients(function):
        def loss(biases):
            outputs = [function(query, key, value, *both) for both in zip(biases, masks, strict=True)]
            return sum(jnp.sin(output).sum() for output in outputs)

        return jit(jax.grad(loss))(biases)

    einsums = functools.partial(nnx.dot_product_attention, dropout_rate=0.1, deterministic=True)
    for found, expected in zip(gradients(dot_product_attention), gradients(einsums), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.int32])
@pytest.mark.parametrize("inputs", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_promoted_as_in_flax(inputs, dtype):
    query, key, value = (normal(n, 5, 4, 8)[0].astype(inputs) for n in (1, 2, 3))
    bias = (2 * normal(4, 5, 5)).astype(dtype)
    einsums = functools.partial(linen.dot_product_attention, dropout_rate=0.1, deterministic=True)
    for arrays in ((query, key, value, bias), (query, key.astype(dtype), value, None)):
        for options in ({}, {"dtype": jnp.bfloat16, "force_fp32_for_softmax": True}):
            functions = (functools.partial(function, **options) for function in (dot_product_attention, einsums))
            found, expected = (jit(function)(*arrays) for function in functions)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=0.05)


# In Flax's modules.


def pair(**options):
    """A MultiHeadAttention with our attention and one with Flax's, of the same parameters."""
    options = {"num_heads": HEADS, "in_features": FEATURES, "decode": False} | options
    ours, theirs = (
        nnx.MultiHeadAttention(**options, attention_fn=function, rngs=nnx.Rngs(0))
        for function in (dot_product_attention, nnx.dot_product_attention)
    )
    return ours, theirs


def gradients(module, *inputs, **options):
    """The output, and the gradients of the parameters and the inputs."""
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)

    def loss(parameters, inputs):
        output = nnx.merge(graph, parameters, rest)(*inputs, **options)
        return jnp.sin(output).sum(), output

    return jax.tree.leaves(jit(jax.grad(loss, (0, 1), has_aux=True))(parameters, inputs))


X, Y = normal(BATCH, LENGTH, FEATURES), normal(BATCH, LENGTH + 4, FEATURES)
VIDEO = normal(BATCH, FRAMES, LENGTH, FEATURES)
PADDING = nnx.make_attention_mask(jnp.arange(LENGTH) < jnp.array([[5], [LENGTH]]), jnp.ones((BATCH, LENGTH)))
CAUSAL = nnx.make_causal_mask(jnp.ones((BATCH, LENGTH)))
CALLS = {
    "self": ((X,), {}, {}),
    "cross": ((X, Y), {}, {}),
    "causal": ((X,), {}, {"is_causal": True}),
    "float masks, with rows of padding": ((X,), {}, {"mask": nnx.combine_masks(PADDING, CAUSAL)}),
    "video": ((VIDEO,), {"normalize_qk": True}, {"mask": jnp.stack([CAUSAL] * FRAMES, axis=1)}),
    "grouped heads": ((X, Y), {"num_kv_heads": 2, "qkv_features": 16, "out_features": 5}, {}),
    "not in training": ((X,), {"dropout_rate": 0.3}, {"deterministic": True}),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=IS_CAUSAL) if name == "causal" else name for name in CALLS])
def test_the_nnx_module_with_it_is_the_nnx_module(name):
    inputs, options, call = CALLS[name]
    for actual, expected in zip(*(gradients(module, *inputs, **call) for module in pair(**options)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_nnx_module_in_16_bits():
    (ours, theirs), (exact, _) = pair(dtype=jnp.bfloat16), pair()
    call = {"mask": nnx.combine_masks(PADDING, CAUSAL)}
    assert ours(X).dtype == theirs(X).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(ours))} == {jnp.dtype("float32")}
    # As one vector: the true gradient of the key's bias is zero, and its noise is nobody's merit.
    found, reference, truth = (
        np.concatenate([np.ravel(leaf).astype("float64") for leaf in gradients(module, X, **call)])
        for module in (ours, theirs, exact)
    )
    assert np.linalg.norm(found - truth) <= 1.5 * np.linalg.norm(reference - truth)


@pytest.mark.parametrize(
    ("name", "force_fp32_for_softmax"),
    [("cross", True), ("float masks, with rows of padding", False), ("not in training", False)],
)
def test_the_linen_module_with_it_is_the_linen_module(name, force_fp32_for_softmax):
    inputs, options, call = CALLS[name]
    options = {"num_heads": HEADS, "force_fp32_for_softmax": force_fp32_for_softmax} | options
    theirs = linen.MultiHeadDotProductAttention(**options)
    ours = linen.MultiHeadDotProductAttention(**options, attention_fn=dot_product_attention)
    variables = theirs.init(jax.random.key(0), *inputs, **call)

    def results(module):
        def loss(variables, inputs):
            output = module.apply(variables, *inputs, **call)
            return jnp.sin(output).sum(), output

        return jit(jax.grad(loss, (0, 1), has_aux=True))(variables, inputs)

    for actual, expected in zip(*map(jax.tree.leaves, (results(ours), results(theirs))), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_decoding_in_nnx_one_token_at_a_time_is_the_causal_module():
    modules = pair(decode=True)
    for module in modules:
        module.init_cache(X.shape)
    step = nnx.jit(lambda module, x: module(x))
    steps = [[step(module, X[:, n : n + 1]) for n in range(LENGTH)] for module in modules]
    ours, theirs = (np.concatenate(outputs, axis=1) for outputs in steps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours, modules[0](X, decode=False, mask=CAUSAL), rtol=1e-5, atol=1e-5)


def test_decoding_in_linen_one_token_at_a_time_is_the_causal_module():
    module = linen.MultiHeadDotProductAttention(HEADS, decode=True, attention_fn=dot_product_attention)
    variables = module.init(jax.random.key(0), X)
    step = jax.jit(functools.partial(module.apply, mutable=["cache"]))
    outputs = []
    for n in range(LENGTH):
        output, changed = step(variables, X[:, n : n + 1])
        variables = variables | changed
        outputs.append(output)
    whole = linen.MultiHeadDotProductAttention(HEADS).apply({"params": variables["params"]}, X, mask=CAUSAL)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, rtol=1e-5, atol=1e-5)


# Dropout. Flax's generator is another one: what is compared is what is dropped together, how much, and from what.

EQUAL = jnp.zeros((2, 3, 150, 4, 8))  # equal scores and an identity as value: the output is the dropped weights
SHOW = jnp.broadcast_to(jnp.eye(40)[:, None], (2, 3, 40, 4, 40))


def weights(rate=0.3, seed=0, **options):
    """(2, 3, heads, i, j), times the number of keys."""
    options |= {"dropout_rate": rate, "dropout_rng": jax.random.key(seed)}
    out = jit(functools.partial(dot_product_attention, **options))(EQUAL, EQUAL[:, :, :40], SHOW)
    return np.asarray(out.swapaxes(2, 3)) * 40


@pytest.mark.parametrize("implementation", ["einsum", "blockwise"])
@pytest.mark.parametrize("broadcast", [True, False])
def test_dropout_is_broadcast_over_batch_and_heads_if_flax_says_so(broadcast, implementation):
    found = weights(broadcast_dropout=broadcast, implementation=implementation)
    np.testing.assert_allclose(np.unique(found.round(4)), [0, 1 / 0.7], rtol=1e-4)
    patterns = {pattern.tobytes() for pattern in (found != 0).reshape(-1, 150, 40)}
    assert len(patterns) == (1 if broadcast else 2 * 3 * 4)
    one = dropout.full_keep_mask(jax.random.key(0), 0.3, (6, 4, 150, 40))
    np.testing.assert_array_equal(
        found != 0, np.broadcast_to(one[0, 0], found.shape) if broadcast else one.reshape(found.shape)
    )


def test_the_share_that_is_dropped():
    dropped = (weights() == 0)[0, 0, 0].mean()
    assert abs(dropped - 0.3) < 5 * (0.3 * 0.7 / 6000) ** 0.5


def test_the_key_decides_and_nothing_is_dropped_in_evaluation_or_at_a_rate_of_0():
    np.testing.assert_array_equal(weights(), weights())
    assert (weights(seed=1) != weights()).any()
    for options in ({"deterministic": True}, {"rate": 0.0}):
        np.testing.assert_allclose(weights(**options), 1, rtol=1e-6)
    assert (weights(rate=1.0) == 0).all()


def test_the_gradient_passes_through_the_weights_that_were_kept():
    query, key, value = (normal(n, 2, 9, 4, 8)[0] for n in (1, 2, 3))
    rng = jax.random.key(5)

    def ours(*arrays, implementation):
        out = dot_product_attention(*arrays, dropout_rng=rng, dropout_rate=0.3, implementation=implementation)
        return jnp.sin(out).sum()

    def masked(*arrays):
        kept = jnp.broadcast_to(dropout.full_keep_mask(rng, 0.3, (1, 1, 9, 9)), (2, 4, 9, 9))
        return jnp.sin(attend(*arrays, dropout_mask=kept, dropout_rate=0.3, layout="bnhd")).sum()

    expected = jit(jax.grad(masked, (0, 1, 2)))(query, key, value)
    for implementation in ("einsum", "blockwise"):
        function = functools.partial(ours, implementation=implementation)
        found = jit(jax.grad(function, (0, 1, 2)))(query, key, value)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.many_devices
def test_broadcast_dropout_and_the_rest_are_the_same_on_several_devices():
    query, key, value = (normal(n, 4, 8, 4, 8)[0] for n in (1, 2, 3))
    options = {"dropout_rng": jax.random.key(5), "dropout_rate": 0.3, "is_causal": True}
    mesh = jax.make_mesh((2, 2, 2), ("data", "model", "seq"))
    expected = jit(functools.partial(dot_product_attention, **options))(query, key, value)
    for cut in (PartitionSpec("data", None, "model"), PartitionSpec("data", "seq", "model")):
        options["sharding"] = NamedSharding(mesh, cut)
        found = jit(functools.partial(dot_product_attention, **options))(query, key, value)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_in_a_module_dropout_follows_the_rngs():
    outputs = []
    for seed in (0, 0, 1):
        module, _ = pair(dropout_rate=0.5)
        module.rngs = nnx.Rngs(dropout=seed).dropout
        outputs.append([module(X, deterministic=False) for _ in range(2)])
    (first, second), again, other = outputs
    np.testing.assert_array_equal([first, second], again)
    assert (first != second).any()
    assert (first != other[0]).any()
    assert (first != module(X, deterministic=True)).any()


# What cannot be honoured, and the signature.


def test_it_takes_all_that_flax_passes():
    ours = list(inspect.signature(dot_product_attention).parameters)
    for theirs in (nnx.dot_product_attention, linen.dot_product_attention):
        names = list(inspect.signature(theirs).parameters)
        assert set(names) <= set(ours)
        assert ours[:12] == names[:12]  # to `module`, by place


def test_weights_cannot_be_sown():
    for module in (pair()[0], functools.partial(linen_module().apply, LINEN)):
        with pytest.raises(
            ValueError, match=r"`module` must be None: the attention weights are never held.*sow_weights"
        ):
            module(X, sow_weights=True)


def linen_module(**options):
    return linen.MultiHeadDotProductAttention(HEADS, attention_fn=dot_product_attention, **options)


LINEN = linen_module().init(jax.random.key(0), X)


def test_products_of_ones_own_are_refused():
    own = {name: lambda: jnp.einsum for name in ("qk_attn_weights_einsum_cls", "attn_weights_value_einsum_cls")}
    with pytest.raises(ValueError, match="`qk_attn_weights_einsum` must be None: the products belong to"):
        linen_module(**own).apply(LINEN, X)
    with pytest.raises(ValueError, match="`einsum_dot_general` must be None"):
        dot_product_attention(*[jnp.ones((2, 5, 4, 8))] * 3, einsum_dot_general=jax.lax.dot_general)


def test_training_without_a_key():
    with pytest.raises(ValueError, match="`dropout_rng` must be a JAX random key when weights are dropped"):
        dot_product_attention(*[jnp.ones((2, 5, 4, 8))] * 3, dropout_rate=0.1)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((5, 8), (5, 8), (5, 8)), r"must have shape \(batch..., length, heads, features\).*query \(5, 8\)"),
        (((2, 3, 5, 4, 8), (3, 2, 5, 4, 8), (3, 2, 5, 4, 8)), "the same batch axes; got query"),
        (((2, 5, 4, 8), (5, 4, 8), (5, 4, 8)), "the same batch axes; got query"),
        (((2, 5, 4, 8), (2, 5, 3, 8), (2, 5, 3, 8)), "query heads must be a multiple of key heads"),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    with pytest.raises(ValueError, match=words):
        dot_product_attention(*map(jnp.ones, shapes))


def test_a_bias_or_mask_that_does_not_fit():
    arrays = [jnp.ones((2, 3, 5, 4, 8))] * 3
    for shape in ((2, 4, 5, 5), (3, 3, 4, 5, 5), (1, 2, 3, 4, 5, 5), (4, 5, 6)):
        for name in ("bias", "mask"):
            with pytest.raises(
                ValueError, match=rf"`{name}` must broadcast to \(batch..., heads, q_len, kv_len\) = \(2, 3,"
            ):
                dot_product_attention(*arrays, **{name: jnp.ones(shape)})
    with pytest.raises(TypeError, match="A boolean mask goes in as `mask`"):
        dot_product_attention(*arrays, bias=jnp.ones((5, 5), bool))
