"""Models as people write them, in both frameworks: transferred, run on one input, and back."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from rich.console import Console
from torch import nn

from parity.weights import (
    PlanError,
    WeightMap,
    WeightsError,
    flax_side,
    plan,
    read,
    torch_side,
    transfer,
    weight_map,
    write,
)
from parity.weights import linen as linen_model
from tests.parity.weights.pairs import bits, channels_last, randomise, same_outputs, there_and_back

X = np.random.default_rng(7).standard_normal


def rngs():
    return nnx.Rngs(0)


# A transformer encoder: separate projections or packed ones, against nnx's own attention ------------------------------


class Separate(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(size, size) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(size, size), nn.Dropout(0.1))

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Packed(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(size, heads, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    """All of one size, so that shapes alone tell nothing of the six Linears."""

    def __init__(self, attention, size, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attn = attention(size, heads)
        self.mlp = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, size))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, attention=Separate, depth=3, size=12, heads=3):
        super().__init__()
        self.layers = nn.ModuleList(Block(attention, size, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(size)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class NnxBlock(nnx.Module):
    """Defined in another order than torch's."""

    def __init__(self, size, heads):
        self.fc2 = nnx.Linear(size, size, rngs=rngs())
        self.fc1 = nnx.Linear(size, size, rngs=rngs())
        self.ln_2 = nnx.LayerNorm(size, epsilon=1e-5, rngs=rngs())
        self.ln_1 = nnx.LayerNorm(size, epsilon=1e-5, rngs=rngs())
        self.attention = nnx.MultiHeadAttention(heads, size, decode=False, dropout_rate=0.1, rngs=rngs())

    def __call__(self, x):
        x = x + self.attention(self.ln_1(x), deterministic=True)
        return x + self.fc2(jax.nn.gelu(self.fc1(self.ln_2(x)), approximate=False))


class NnxEncoder(nnx.Module):
    def __init__(self, depth=3, size=12, heads=3):
        self.blocks = nnx.List(NnxBlock(size, heads) for _ in range(depth))
        self.final_norm = nnx.LayerNorm(size, epsilon=1e-5, rngs=rngs())
        self.dropout = nnx.Dropout(0.1, rngs=rngs())

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)


@pytest.mark.parametrize("attention", [Separate, Packed])
def test_a_transformer_encoder(attention):
    model, port = randomise(Encoder(attention)), NnxEncoder()
    transfer(model, port)
    assert same_outputs(model, port, X((2, 5, 12), np.float32)) < 2e-5
    there_and_back(model, port)


def test_random_streams_are_ignored_and_said_to_be():
    found = weight_map(randomise(Encoder()), NnxEncoder())
    ignored = {t.path: entry.why for entry in found.entries if entry.transform == "ignored" for t in entry.flax}
    streams = ("dropout", *(f"blocks.{i}.attention" for i in range(3)))
    assert set(ignored) == {f"{stream}.rngs.{name}" for stream in streams for name in ("key", "count")}
    assert set(ignored.values()) == {"the state of a random stream, no weight"}


def test_heads_that_differ_are_refused():
    with pytest.raises(PlanError, match=r"wrong shape.*options .'heads': 3. and .'heads': 4."):
        transfer(Encoder(Packed, heads=3), NnxEncoder(heads=4))


def test_keys_and_values_of_other_sizes():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.cross = nn.MultiheadAttention(12, 3, kdim=7, vdim=7, bias=False, batch_first=True)

        def forward(self, x):
            return self.cross(x, x[..., :7], x[..., :7], need_weights=False)[0]

    port = nnx.MultiHeadAttention(3, 12, in_kv_features=7, use_bias=False, decode=False, rngs=rngs())
    model = randomise(Cross())
    transfer(model, port)
    assert same_outputs(model, lambda x: port(x, x[..., :7]), X((2, 5, 12), np.float32)) < 1e-5
    there_and_back(model, port)


# A conv block ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(5, 5, 3, padding=1, bias=False), nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(5), nn.BatchNorm2d(5)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class NnxResidual(nnx.Module):
    def __init__(self):
        self.convs = nnx.List(nnx.Conv(5, 5, (3, 3), padding=1, use_bias=False, rngs=rngs()) for _ in range(2))
        self.norms = nnx.List(nnx.BatchNorm(5, epsilon=1e-5, use_running_average=True, rngs=rngs()) for _ in range(2))

    def __call__(self, x):
        y = jax.nn.relu(self.norms[0](self.convs[0](x)))
        return jax.nn.relu(x + self.norms[1](self.convs[1](y)))


class LinenResidual(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = x
        for last in (False, True):
            y = linen.Conv(5, (3, 3), padding=1, use_bias=False)(y)
            y = linen.BatchNorm(use_running_average=True, epsilon=1e-5)(y)
            y = jax.nn.relu(x + y if last else y)
        return y


def test_a_conv_block_with_running_statistics():
    model, port = randomise(Residual()), NnxResidual()
    found = transfer(model, port).map
    assert same_outputs(model, port, X((2, 5, 7, 11), np.float32), images=True) < 2e-5
    there_and_back(model, port)
    why = {t.path: entry.why for entry in found.entries if entry.transform == "ignored" for t in entry.torch}
    assert why == dict.fromkeys(
        ("bn1.num_batches_tracked", "bn2.num_batches_tracked"), "counts batches; Flax keeps no such count"
    )


@pytest.mark.parametrize("alone", [False, True], ids=["module", "variables"])
def test_a_conv_block_in_linen(alone):
    model, port, x = randomise(Residual()), LinenResidual(), X((2, 5, 7, 11), np.float32)
    variables = port.init(jax.random.key(0), channels_last(x))
    before = bits(flax_side.arrays(flax_side.Linen(variables)))
    found = transfer(model, variables if alone else linen_model(port, channels_last(x)))
    assert same_outputs(model, lambda x: port.apply(found.target, x), x, images=True) < 2e-5
    assert bits(flax_side.arrays(flax_side.Linen(variables))) == before, "the variables that were given are unchanged"
    there_and_back(model, flax_side.Linen(variables))


# Linen with its class names -------------------------------------------------------------------------------------------


class LinenEncoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = LinenBlock()(x)
        return linen.LayerNorm(epsilon=1e-5, name="norm")(x)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = linen.LayerNorm(epsilon=1e-5)(x)
        x = x + linen.MultiHeadDotProductAttention(num_heads=3)(y, y)
        y = jax.nn.gelu(linen.Dense(12)(linen.LayerNorm(epsilon=1e-5)(x)), approximate=False)
        return x + linen.Dense(12)(y)


@pytest.mark.parametrize("attention", [Separate, Packed])
@pytest.mark.parametrize("alone", [False, True], ids=["module", "variables"])
def test_a_transformer_encoder_in_linen(attention, alone):
    model, port, x = randomise(Encoder(attention, depth=2)), LinenEncoder(), X((2, 5, 12), np.float32)
    target = flax_side.Linen(port.init(jax.random.key(0), x)) if alone else linen_model(port, x)
    variables = transfer(model, target).target
    assert same_outputs(model, lambda x: port.apply(variables, x), x) < 2e-5
    fresh = randomise(Encoder(attention, depth=2), seed=1)
    transfer(linen_model(port, x, variables=variables), fresh)
    assert bits(torch_side.arrays(fresh)) == bits(torch_side.arrays(model))


def test_shapes_alone_cannot_be_read_as_weights():
    with pytest.raises(WeightsError, match="has a shape but no numbers"):
        transfer(linen_model(linen.Dense(7), jnp.ones((2, 5))), nn.Linear(5, 7))


def test_a_linen_module_without_inputs_is_told_what_it_needs():
    with pytest.raises(WeightsError, match=r"parity.weights.linen\(module, \*inputs\)"):
        transfer(nn.Linear(5, 7), linen.Dense(7))


def test_linen_metadata_is_kept():
    module = linen.Dense(7, kernel_init=linen.with_partitioning(linen.initializers.zeros_init(), ("in", "out")))
    model, x = randomise(nn.Linear(5, 7)), X((2, 5), np.float32)
    variables = transfer(model, module.init(jax.random.key(0), x)).target
    assert variables["params"]["kernel"].names == ("in", "out")
    assert same_outputs(model, lambda x: module.apply(variables, x), x) < 1e-5


# Tied weights ---------------------------------------------------------------------------------------------------------


class LanguageModel(nn.Module):
    def __init__(self, *, bias=False, vocabulary=11):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 5)
        self.fc = nn.Linear(5, 5)
        self.lm_head = nn.Linear(5, vocabulary, bias=bias)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        return self.lm_head(torch.relu(self.fc(self.embed(ids))))


class Attending(nnx.Module):
    """Tied as Flax does it: the embedding is the output layer."""

    def __init__(self, *, bias=False, vocabulary=11):
        self.tok_emb = nnx.Embed(vocabulary, 5, rngs=rngs())
        self.dense = nnx.Linear(5, 5, rngs=rngs())
        self.bias = nnx.Param(jnp.zeros(vocabulary)) if bias else None

    def __call__(self, ids):
        logits = self.tok_emb.attend(jax.nn.relu(self.dense(self.tok_emb(ids))))
        return logits if self.bias is None else logits + self.bias


class Untied(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(11, 5, rngs=rngs())
        self.fc = nnx.Linear(5, 5, rngs=rngs())
        self.lm_head = nnx.Linear(5, 11, use_bias=False, rngs=rngs())

    def __call__(self, ids):
        return self.lm_head(jax.nn.relu(self.fc(self.embed(ids))))


IDS = np.array([[3, 0, 10], [1, 1, 7]])


@pytest.mark.parametrize(("bias", "vocabulary"), [(False, 11), (True, 11), (False, 5)])
def test_a_tied_embedding_is_one_tensor_with_two_names(bias, vocabulary):
    """With a vocabulary as large as the embedding the tied layer could be mistaken for the other Linear."""
    model = randomise(LanguageModel(bias=bias, vocabulary=vocabulary))
    port = Attending(bias=bias, vocabulary=vocabulary)
    transfer(model, port)
    assert same_outputs(model, port, IDS % vocabulary) < 1e-5
    there_and_back(model, port)
    assert model.lm_head.weight is model.embed.weight


def test_weights_tied_in_torch_only_go_to_both_and_come_back_while_they_agree():
    model, port = randomise(LanguageModel()), Untied()
    transfer(model, port)
    assert same_outputs(model, port, IDS) < 1e-5
    there_and_back(model, port)
    port.lm_head.kernel[...] = port.lm_head.kernel[...] + 1
    with pytest.raises(WeightsError, match=r"`embed.weight` is one tensor.*different values.*tie them there"):
        transfer(port, model)


def test_a_module_used_twice_is_one_layer_with_two_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(5, 5)
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    class NnxShared(nnx.Module):
        def __init__(self):
            self.one = nnx.Linear(5, 5, rngs=rngs())
            self.two = self.one

        def __call__(self, x):
            return self.two(self.one(x))

    model, port = randomise(Shared()), NnxShared()
    found = transfer(model, port).map
    assert same_outputs(model, port, X((2, 5), np.float32)) < 1e-5
    assert [(e.torch[0].names, e.flax[0].names) for e in found.entries] == [
        (("second.weight",), ("two.kernel",)), (("second.bias",), ("two.bias",)),
    ]  # fmt: skip
    there_and_back(model, port)


# Parameters and buffers of no known kind ------------------------------------------------------------------------------


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 5))
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 5))
        self.register_buffer("position_ids", torch.arange(4))
        self.register_buffer("frequencies", torch.ones(3), persistent=False)


class NnxVision(nnx.Module):
    def __init__(self):
        self.pos = nnx.Param(jnp.zeros((1, 4, 5)))
        self.cls = nnx.Param(jnp.zeros((1, 1, 5)))
        self.table = jnp.ones(3)
        self.cache = nnx.Cache(jnp.zeros(2))


def test_plain_parameters_are_paired_and_constants_are_ignored_with_a_reason():
    model, port = randomise(Vision()), NnxVision()
    found = transfer(model, port).map
    assert {e.torch[0].path: e.flax[0].path for e in found.entries if e.transform != "ignored"} == {
        "cls_token": "cls", "pos_embed": "pos",
    }  # fmt: skip
    assert {t.path: e.why for e in found.entries if e.transform == "ignored" for t in (*e.torch, *e.flax)} == {
        "position_ids": "a buffer of int64: not trained",
        "frequencies": "a non-persistent buffer: the constructor makes it, no checkpoint holds it",
        "table": "a plain array, no Variable: the constructor makes it",
        "cache": "a cache that calls fill, no weight",
    }
    there_and_back(model, port)


def test_a_trained_buffer_without_a_partner_is_an_error_until_a_rule_leaves_it_alone():
    class Port(nnx.Module):
        def __init__(self):
            self.fc = nnx.Linear(3, 2, rngs=rngs())

    model = nn.Module()
    model.fc = nn.Linear(3, 2)
    model.register_buffer("table", torch.ones(3))
    with pytest.raises(PlanError, match="left over: `table`"):
        transfer(model, Port())
    assert transfer(model, Port(), rules={"table": None}).map.ignored("torch") == {"table"}


def test_every_parameter_and_buffer_is_in_the_map_once():
    model, port = randomise(Encoder(Packed)), NnxEncoder()
    entries = weight_map(model, port).entries
    held = sum(np.prod(t.size) for e in entries for t in e.torch)
    assert held == sum(p.numel() for p in model.parameters())
    assert {t.path for e in entries for t in e.flax} == {
        ".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(port))
    }


# Dtypes ---------------------------------------------------------------------------------------------------------------


def test_bfloat16_stays_bfloat16_bit_for_bit():
    model = randomise(nn.Linear(5, 7)).to(torch.bfloat16)
    port = nnx.Linear(5, 7, param_dtype=jnp.bfloat16, rngs=rngs())
    transfer(model, port)
    assert port.kernel.dtype == jnp.bfloat16
    wanted = model.weight.detach().view(torch.int16).numpy().T
    assert np.array_equal(np.asarray(port.kernel[...]).view(np.int16), wanted)
    there_and_back(model, port)


def test_a_dtype_that_holds_the_values_is_taken_and_one_that_rounds_them_refused():
    model, port = randomise(nn.Linear(5, 7)), nnx.Linear(5, 7, param_dtype=jnp.bfloat16, rngs=rngs())
    with pytest.raises(WeightsError, match=r"`kernel` is bfloat16.*float32, would be rounded.*cast=True"):
        transfer(model, port)
    transfer(model, port, cast=True)
    transfer(port, model)  # float32 holds every bfloat16
    assert bits({"w": model.weight.detach().numpy().T})["w"][2] == np.asarray(port.kernel[...], np.float32).tobytes()


# The map and files ----------------------------------------------------------------------------------------------------


def test_a_map_is_saved_read_and_used_again(tmp_path):
    model, port = randomise(Encoder(Packed)), NnxEncoder()
    found = weight_map(model, port)
    found.save(tmp_path / "map.json")
    again = WeightMap.load(tmp_path / "map.json")
    assert again == found
    transfer(model, port, map=again)
    assert same_outputs(model, port, X((2, 5, 12), np.float32)) < 2e-5
    with pytest.raises(WeightsError, match="expected names of the torch side of this map"):
        transfer(Residual(), port, map=again)
    with pytest.raises(WeightsError, match=r"expected shape \(12,\), as the map was made for, got \(24,\)"):
        transfer(Encoder(Packed, size=24), port, map=again)


def test_a_map_goes_with_files_and_no_module_at_all(tmp_path):
    """A torch checkpoint in bfloat16 becomes a Flax one, and back."""
    model = randomise(Encoder(Packed)).to(torch.bfloat16)
    found = weight_map(model, NnxEncoder())
    write(tmp_path / "torch.safetensors", torch_side.arrays(model))
    there = found.to_flax(read(tmp_path / "torch.safetensors"))
    write(tmp_path / "flax.safetensors", there)
    back = found.to_torch(read(tmp_path / "flax.safetensors"))
    assert bits(back) == bits(torch_side.arrays(model))


def test_the_table_shows_everything():
    found = weight_map(randomise(LanguageModel()), Attending())
    stream = io.StringIO()
    Console(file=stream, width=200).print(found.table())
    text = stream.getvalue()
    for words in (
        "embed.weight (11, 5) (also lm_head.weight)",
        "tok_emb.embedding (11, 5)",
        "fc.weight (5, 5)",
        "linear",
    ):
        assert words in text
    assert "ignored" in text
    assert "tied to embed.weight" in text


def test_descriptions_travel_between_processes_and_the_planner_loads_no_framework(tmp_path):
    """A worker describes and one without either framework plans, as in `parity run`."""
    sides = torch_side.describe(Encoder(Packed)), flax_side.describe(NnxEncoder())
    (tmp_path / "sides").write_bytes(pickle.dumps(sides))
    program = f"""
import pickle, sys
from parity.weights import plan, read, WeightMap
found = plan(*pickle.loads(open({str(tmp_path / "sides")!r}, "rb").read()))
print(len(found.entries), sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "jax", "jaxlib", "flax"}}))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(len(plan(*sides).entries)), "[]"]
    planted = subprocess.run(
        [sys.executable, "-c", "import torch" + program], capture_output=True, text=True, check=True
    )
    assert "torch" in planted.stdout


def test_nothing_is_written_when_something_is_wrong():
    model, port = Encoder(Packed), NnxEncoder(depth=2)
    before = bits(flax_side.arrays(port))
    with pytest.raises(PlanError):
        transfer(model, port)
    assert bits(flax_side.arrays(port)) == before


def test_a_stack_of_layers_is_not_taken_for_one_with_several_inputs():
    """Two layers (3, 5) that nnx.vmap made are a kernel (2, 3, 5), which (5, 6) would fit."""
    port = nnx.vmap(lambda key: nnx.Linear(3, 5, use_bias=False, rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0))
    )
    assert port.kernel.shape == (2, 3, 5)
    with pytest.raises(PlanError, match="parameter: value"):
        transfer(nn.Linear(6, 5, bias=False), port)


BAD_ARRAYS = [
    ({"weight": np.ones((3, 2), np.float32)}, r"expected an array for every parameter.*, got none for .'bias'."),
    ({"weigth": np.ones(3)}, r"expected names of the .*, got .'weigth'."),
    ({"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}, r"expected shape .*, got \(., .\)"),
    ({"weight": np.ones((3, 2)), "bias": np.ones(3, np.float32)}, r"of float32, got \(.*\) of float64"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), BAD_ARRAYS)
def test_arrays_that_are_not_the_modules_are_refused_before_anything_is_written(given, words):
    renamed = {name.replace("weight", "kernel"): array.T for name, array in given.items()}
    for side, module, arrays in (
        (torch_side, nn.Linear(2, 3), given),
        (flax_side, nnx.Linear(2, 3, rngs=rngs()), renamed),
    ):
        before = bits(side.arrays(module))
        with pytest.raises(WeightsError, match=words):
            side.load(module, arrays)
        assert bits(side.arrays(module)) == before


@pytest.mark.parametrize("sides", [(nn.Linear(2, 3), nn.Linear(2, 3)), (nn.Linear(2, 3), 3)])
def test_two_of_one_framework_are_refused(sides):
    with pytest.raises(WeightsError, match="expected a torch module and a Flax one, got Linear and"):
        transfer(*sides)
