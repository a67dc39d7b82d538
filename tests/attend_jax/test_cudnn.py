"""The rewrites in front of cuDNN's kernel, on a machine without one.

What is handed to the kernel is computed in XLA by a stand-in that refuses all that the kernel refuses, and must give
the truth. That the kernel is what is called is in test_cudnn_lowering.py.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from allpairspy import AllPairs

from attend_jax import explain, functional, private
from attend_jax.implementations import cudnn, einsum
from attend_jax.implementations.cudnn import kernel
from attend_jax.implementations.cudnn.kernel import Call
from attend_jax.implementations.cudnn.rectangle import groups
from parity import truth
from parity.attention import Attention

SIZES = {"b": 2, "h": 6, "d": 5, "e": 7}
KV_HEADS = 3


class Kernel:
    """cuDNN's kernel as jax 0.10.2 offers it, limits included (shared/TRAPS.md), in float32 on any device.

    The backward pass is written from the output and the log-sum-exp that it is given, as the kernel's is.
    """

    exact = True

    def weights(self, call, seen, query, key, value, bias):
        """Scores and value heads, with the heads of the query; all (b h n d)."""
        if call.layout == "bnhd":
            query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        (batch, heads, q_len, head_dim), kv_len = query.shape, key.shape[2]
        assert q_len % 2 == kv_len % 2 == 0, "odd lengths cannot be differentiated"
        assert key.shape == value.shape, "one head size for key and value"
        assert head_dim % 8 == 0
        assert type(call.scale) is float, "a compile-time scale"
        assert not call.causal or q_len == kv_len, "causal rectangles have the other corner"
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
        key, value = (jnp.repeat(x, heads // key.shape[1], axis=1) for x in (key, value))
        scores = jnp.einsum("bhid,bhjd->bhij", query, key) * call.scale
        if bias is not None:
            assert bias.shape[2:] == (q_len, kv_len), "jax#28974"
            assert bias.shape[0] in (1, batch)
            assert bias.shape[1] in (1, heads)
            assert 64 not in (q_len % 128, kv_len % 128), "pytorch#196678"
            scores += bias.astype(jnp.float32)
        if call.causal:
            scores = jnp.where(jnp.tril(jnp.ones((q_len, kv_len), bool)), scores, -jnp.inf)
        if seen is not None:
            scores = jnp.where(jnp.arange(kv_len) < seen, scores, -jnp.inf)
        return scores, query, key, value

    def like(self, call, array, of):
        return (array if call.layout == "bhnd" else jnp.swapaxes(array, 1, 2)).astype(of.dtype)

    def forward_and_logsumexp(self, call, seen, query, key, value, bias):
        assert bias is None or bias.dtype == query.dtype, "jax#32242"
        scores, _, _, wide = self.weights(call, seen, query, key, value, bias)
        output = jnp.einsum("bhij,bhje->bhie", jax.nn.softmax(scores), wide)
        return self.like(call, output, query), jax.nn.logsumexp(scores, axis=-1)

    def forward(self, *arguments):
        return self.forward_and_logsumexp(*arguments)[0]

    def backward(self, call, seen, query, key, value, bias, output, logsumexp, cotangent):
        assert output.shape == cotangent.shape == query.shape
        scores, wide_q, wide_k, wide_v = self.weights(call, seen, query, key, value, bias)
        if call.layout == "bnhd":
            output, cotangent = (jnp.swapaxes(x, 1, 2) for x in (output, cotangent))
        output, cotangent = (x.astype(jnp.float32) for x in (output, cotangent))
        weights = jnp.exp(scores - logsumexp[..., None])
        dweights = jnp.einsum("bhie,bhje->bhij", cotangent, wide_v)
        dscores = weights * (dweights - (output * cotangent).sum(-1, keepdims=True))

        def shared(gradient, array):
            heads = array.shape[1 if call.layout == "bhnd" else 2]
            split = gradient.reshape(gradient.shape[0], heads, -1, *gradient.shape[2:])
            return self.like(call, split.sum(2), array)

        found = [
            self.like(call, jnp.einsum("bhij,bhjd->bhid", dscores, wide_k) * call.scale, query),
            shared(jnp.einsum("bhij,bhid->bhjd", dscores, wide_q) * call.scale, key),
            shared(jnp.einsum("bhij,bhie->bhje", weights, cotangent), value),
        ]
        if bias is not None and call.dbias:
            axes = [axis for axis in (0, 1) if bias.shape[axis] != dscores.shape[axis]]
            found.append(dscores.sum(axes, keepdims=True).astype(bias.dtype))
        return found


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(private, "cudnn", Kernel)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A call; `bias` and `mask` name the axes they span, `1` is one of size 1."""

    q_len: int
    kv_len: int
    causal: bool | str = False
    bias: str | None = None
    mask: str | None = None
    layout: str = "bhnd"
    scale: float | None = None
    dtype: str = "float32"
    kv_heads: int = KV_HEADS
    lse: bool = False

    def __str__(self):
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)
                        if getattr(self, f.name) != f.default)  # fmt: skip

    def arrays(self, examples=()):
        """Inputs, mask and cotangent. Every fourth row of the mask is empty."""
        rng = np.random.default_rng(0)
        sizes = SIZES | {"i": self.q_len, "j": self.kv_len}

        def normal(*shape):
            return jnp.asarray(rng.standard_normal((*examples, *shape)), self.dtype)

        def qkv(heads, length, features):
            pair = (heads, length) if self.layout == "bhnd" else (length, heads)
            return normal(sizes["b"], *pair, sizes[features])

        inputs = {
            "query": qkv(sizes["h"], self.q_len, "d"),
            "key": qkv(self.kv_heads, self.kv_len, "d"),
            "value": qkv(self.kv_heads, self.kv_len, "e"),
        }
        if self.bias is not None:
            inputs["bias"] = normal(*(sizes.get(axis, 1) for axis in self.bias))
        mask = None
        if self.mask is not None:
            shape = [sizes.get(axis, 1) for axis in self.mask]
            mask = jnp.asarray((rng.random(shape) < 0.6) & (rng.random((*shape[:-1], 1)) < 0.75))
        return inputs, mask, qkv(sizes["h"], self.q_len, "e")

    def run(self, implementation, inputs, mask, scale=None):
        """One implementation's output, its dtype and availability checks passed by."""
        return self.result(implementation, inputs, mask, scale).output

    def result(self, implementation, inputs, mask, scale=None):
        problem, operands = functional._normalise(
            inputs["query"], inputs["key"], inputs["value"], inputs.get("bias"), mask=mask, causal=self.causal,
            scale=self.scale if scale is None else scale, dropout_rate=0.0, dropout_rng=None, dropout_mask=None,
            layout=self.layout, return_logsumexp=self.lse, implementation="einsum", precision=None,
        )  # fmt: skip
        return implementation.run(problem, operands)


# Compiled once and run once: the compiler's own time is what these tests take.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def both(setting, **edits):
    """The truth of output and gradients, and those of the rewritten kernel."""
    inputs, mask, cotangent = setting.arrays()
    inputs = inputs | edits
    cotangents = {"output": cotangent}
    if setting.lse:
        cotangents["logsumexp"] = jnp.sin(jnp.arange(cotangent.size // SIZES["e"])).reshape(SIZES["b"], SIZES["h"], -1)

    @jit
    def rewritten(inputs, mask, cotangents):
        def results(inputs):
            result = setting.result(cudnn, inputs, mask)
            return {name: getattr(result, name) for name in cotangents}

        found, vjp = jax.vjp(results, inputs)
        return found | {"d" + name: gradient for name, gradient in vjp(cotangents)[0].items()}

    arrays = inputs | {"cotangent_" + name: array for name, array in cotangents.items()}
    arrays |= {} if mask is None else {"mask": mask}
    case = Attention(causal=setting.causal, scale=setting.scale, layout=setting.layout, logsumexp=setting.lse).case()
    expected = truth.attention(case, {name: np.asarray(array) for name, array in arrays.items()})
    actual = rewritten(inputs, mask, cotangents)
    assert {name: actual["d" + name].dtype for name in inputs} == {name: x.dtype for name, x in inputs.items()}
    return {name: width.truth for name, width in expected.items()}, actual


def outputs(setting, inputs, mask):
    """Of einsum and of the rewritten kernel."""
    return jit(lambda: [setting.run(implementation, inputs, mask) for implementation in (einsum, cudnn)])()


def same(actual, expected, rtol=2e-5):
    """Equal up to `rtol` of each array's largest number."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        wide, other = np.asarray(array, np.float64), np.asarray(actual[name], np.float64)
        largest = np.abs(wide[np.isfinite(wide)]).max()
        np.testing.assert_allclose(other, wide, rtol=0, atol=rtol * max(1, largest), err_msg=name)


# Squares, both kinds of rectangle, odd and even, one row, one key, and much longer than wide.
LENGTHS = [(8, 8), (7, 7), (5, 13), (13, 5), (6, 9), (1, 11), (11, 1), (8, 6), (3, 17)]
BIASES = [None, "bhij", "hij", "111j", "b1i1"]
MASKS = [None, "bhij", "b11j", "hi1", "ij"]
PAIRS = [
    Setting(*lengths, causal, bias, mask, layout, lse=lse)
    for lengths, causal, bias, mask, layout, lse in AllPairs(
        [LENGTHS, [False, "lower_right", "upper_left"], BIASES, MASKS, ["bhnd", "bnhd"], [False, True]]
    )
]
# Without a mask causal is turned into squares: all of those, with and without a bias.
RECTANGLES = [
    Setting(*lengths, causal, bias, lse=lse)
    for lengths in ((5, 13), (7, 9), (13, 6))
    for causal in ("lower_right", "upper_left")
    for bias, lse in ((None, True), ("hij", False), ("b1ij", True))
]
# Lengths 64 beyond a multiple of 128, reached by rounding up too.
SIXTY_FOUR = [
    Setting(64, 64, bias="11ij"),
    Setting(63, 64, "upper_left", "hij"),
    Setting(10, 192, True, "111j", "bh1j"),
]
OTHERS = [
    Setting(7, 5, True, scale=0.3),
    Setting(5, 7, True, scale=-2.0),
    Setting(5, 5, kv_heads=1),
    Setting(5, 5, kv_heads=6),
]


@pytest.mark.parametrize("setting", dict.fromkeys([*PAIRS, *RECTANGLES, *SIXTY_FOUR, *OTHERS]), ids=str)
def test_the_rewrites_are_exact(setting):
    expected, actual = both(setting)
    same(actual, expected)


def test_the_stand_in_refuses_what_the_kernel_refuses():
    query, bias = jnp.ones((1, 8, 1, 8)), jnp.ones((1, 1, 8, 8))
    call = Call(1.0, "bnhd", dbias=True)
    for arrays in ((query[:, :7], query, query), (query, query[:, :7], query[:, :7]), (query, query, query[..., :4])):
        with pytest.raises(AssertionError):
            Kernel().forward(call, None, *arrays, None)
    with pytest.raises(AssertionError, match="28974"):
        Kernel().forward(call, None, query, query, query, bias[:, :, :1])


@pytest.mark.parametrize(("q_len", "kv_len", "count"), [(5, 13, 2), (5, 10, 1), (5, 9, 1), (1, 13, 1)])
def test_far_more_keys_than_queries_are_a_part_that_is_seen_whole_and_a_square(q_len, kv_len, count):
    ((*pieces,),) = groups("lower_right", q_len, kv_len)
    assert len(pieces) == count
    work = sum((p.rows[1] - p.rows[0]) * (p.columns[1] - p.columns[0]) / (2 if p.causal else 1) for p in pieces)
    needed = q_len * kv_len - q_len * (q_len - 1) / 2
    assert work <= 1.4 * needed


@pytest.mark.parametrize(("dtype", "largest", "atol"), [("bfloat16", 1e30, 0), ("float16", 6e4, 1e-7)])
def test_the_cotangent_of_the_logsumexp_loses_no_bit_on_its_way_through_16_bits(dtype, largest, atol):
    number = jax.random.normal(jax.random.key(0), (1000,)) * jnp.logspace(-6, 6, 1000)
    number = jnp.clip(number, -largest, largest)
    total = sum(np.asarray(part, np.float64) for part in kernel._split(number, dtype))
    np.testing.assert_allclose(total, np.asarray(number, np.float64), rtol=2**-24, atol=atol)


def test_a_traced_scale_is_the_same_as_a_static_one():
    setting = Setting(5, 7, True, "hij")
    inputs, mask, _ = setting.arrays()
    expected = jit(lambda: setting.run(cudnn, inputs, mask, 0.3))()
    actual = jit(lambda scale: setting.run(cudnn, inputs, mask, scale))(jnp.float32(0.3))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_the_gradient_of_a_traced_scale_is_summed_in_float32():
    # It is a sum over all of query; 128,000 numbers summed in bfloat16 have been 17 % off.
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.standard_normal((1, 1, n, 64)), jnp.bfloat16) for n in (2000, 50))
    cotangent = rng.standard_normal(query.shape).astype(np.float32)
    setting = Setting(2000, 50, dtype="bfloat16")

    def loss(scale, implementation):
        output = setting.run(implementation, {"query": query, "key": key, "value": key}, None, scale)
        return (output * cotangent).sum()

    expected, actual = (jit(jax.grad(loss), static_argnums=1)(jnp.float32(0.3), x) for x in (einsum, cudnn))
    np.testing.assert_allclose(actual, expected, rtol=0.02)


def test_masked_keys_and_values_have_no_effect_at_all():
    setting = Setting(5, 7, bias="hij", mask="b11j")
    inputs, mask, _ = setting.arrays()
    mask = mask.at[..., 0].set(True).at[..., 3].set(False)
    other = inputs | {name: inputs[name].at[:, :, 3].set(1e3) for name in ("key", "value")}
    run = jit(functools.partial(setting.run, cudnn, mask=mask))
    first, second = run(inputs), run(other)
    np.testing.assert_array_equal(first, second)


def test_a_float32_bias_with_float16_is_refused():
    # 65504 is the largest float16; a float32 bias, or a mask made of -1e9, may lie beyond it.
    shape, bias = jax.ShapeDtypeStruct((2, 4, 6, 8), jnp.float16), jax.ShapeDtypeStruct((6, 6), jnp.float32)
    assert "65504" in explain(shape, shape, shape, bias).others["cudnn"]


def test_a_float16_mask_hides_keys_with_the_largest_scores():
    # Allowed scores of -36,000, far above the fill of -65,504, and a hidden one of 36,000.
    setting = Setting(6, 5, mask="j", scale=0.9, dtype="float16")
    inputs, _, _ = setting.arrays()
    query = jnp.zeros_like(inputs["query"]).at[..., 0].set(200)
    key = jnp.zeros_like(inputs["key"]).at[..., 0].set(-200).at[:, :, 3, 0].set(200)
    mask = jnp.array([True, True, True, False, True])
    expected, actual = outputs(setting, inputs | {"query": query, "key": key}, mask)
    np.testing.assert_allclose(actual.astype(np.float32), expected.astype(np.float32), atol=2e-3)


@pytest.mark.parametrize("mask", [None, "j"])
def test_a_large_negative_bias_is_still_above_what_is_masked_or_padded(mask):
    # -1e30 is far above bfloat16's lowest, -3.4e38: the row has its softmax among the allowed keys (S17).
    setting = Setting(6, 5, bias="ij", mask=mask, dtype="bfloat16")
    inputs, _, _ = setting.arrays()
    inputs["bias"] = jnp.full((6, 5), -1e30, jnp.bfloat16)
    mask = None if mask is None else jnp.array([True, True, True, False, True])
    expected, actual = outputs(setting, inputs, mask)
    np.testing.assert_allclose(actual.astype(np.float32), expected.astype(np.float32), atol=2e-2)


SHARED = {
    "everything of its own": {},
    "shared keys": {"key": None, "value": None},
    "shared bias": {"bias": None},
    "shared query": {"query": None},
    "only the bias its own": {"query": None, "key": None, "value": None},
}


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize(
    "bias", ["hij", "bhij"]
)  # shared by a batch: one example after the other; else one larger batch
def test_vmap_of_the_gradient_is_the_gradient_of_each_example(shared, bias):
    # jax's own batching rule sums the gradient of a shared bias over the examples (jax#39451).
    setting = Setting(3, 8, True, bias, lse=True)
    inputs, _, _ = setting.arrays(examples=(3,))
    inputs = {name: array[0] if name in shared else array for name, array in inputs.items()}
    axes = {name: shared.get(name, 0) for name in inputs}

    def loss(inputs, implementation):
        result = setting.result(implementation, inputs, None)
        return jnp.sin(result.output).sum() + jnp.cos(result.logsumexp).sum()

    def per_example(implementation):
        return jit(jax.vmap(jax.grad(functools.partial(loss, implementation=implementation)), in_axes=(axes,)))(inputs)

    same(per_example(cudnn), per_example(einsum))


def test_two_vmaps_without_a_bias_are_one_larger_batch():
    setting = Setting(5, 8, "upper_left")
    inputs, _, _ = setting.arrays(examples=(2, 3))
    axes = {"query": 0, "key": None, "value": 0}
    inputs["key"] = inputs["key"][0, 0]
    mapped = {name: jax.vmap(jax.vmap(functools.partial(setting.run, of, mask=None), (axes,)), (axes,)) for name, of in
              (("cudnn", cudnn), ("einsum", einsum))}  # fmt: skip
    same({"output": jit(mapped["cudnn"])(inputs)}, {"output": jit(mapped["einsum"])(inputs)})


def test_the_gradient_of_a_vmap_is_the_sum_over_the_examples():
    setting = Setting(7, 5, True, mask="hij")
    inputs, _, _ = setting.arrays(examples=(3,))
    mask = setting.arrays()[1]
    axes = {"query": 0, "key": None, "value": None}
    inputs = {name: array if axes[name] == 0 else array[0] for name, array in inputs.items()}

    def loss(inputs, implementation):
        return jnp.sin(jax.vmap(lambda x: setting.run(implementation, x, mask), in_axes=(axes,))(inputs)).sum()

    gradient = jit(jax.grad(loss), static_argnums=1)
    same(gradient(inputs, cudnn), gradient(inputs, einsum))


def test_rematerialisation_changes_nothing():
    setting = Setting(5, 8, "upper_left", "hij")
    inputs, _, _ = setting.arrays()
    run = functools.partial(setting.run, cudnn, mask=None)
    plain, again = (jit(jax.grad(lambda x, f=f: jnp.sin(f(x)).sum()))(inputs) for f in (run, jax.checkpoint(run)))
    same(again, plain)
