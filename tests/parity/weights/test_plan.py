"""What is paired with what, and what is refused: planned from descriptions alone, without either framework."""

from __future__ import annotations

import itertools
import random

import pytest

from parity.weights import Layer, PlanError, Rule, Tensor, WeightsError, match, names, plan

SQUARE = (5, 5)


def linear(path, shape=SQUARE, *, bias=False, side="torch", **options):
    """A Linear of torch (out, in), or one of Flax for the same shape."""
    weight = "weight" if side == "torch" else "kernel"
    tensors = {weight: Tensor(f"{path}.{weight}", shape if side == "torch" else shape[::-1], "float32")}
    if bias:
        tensors["bias"] = Tensor(f"{path}.bias", shape[:1], "float32")
    return Layer(path, "linear", tensors, options)


def pairs(torch, flax, rules=()):
    """Paths paired, from paths; a path may come with a shape."""
    left, right = (
        [linear(*([item] if isinstance(item, str) else item), side=side) for item in items]
        for side, items in (("torch", torch), ("flax", flax))
    )
    entries = plan(left, right, rules).entries
    return {e.torch[0].path.removesuffix(".weight"): e.flax[0].path.removesuffix(".kernel") for e in entries}


def problems(torch, flax, rules=()):
    with pytest.raises(PlanError) as caught:
        plan(torch, flax, rules)
    return caught.value.problems


MEANINGS = [
    ("query", "q to_q q_proj wq w_q query Query queries"),
    ("key", "k to_k k_proj wk w_k key Key"),
    ("value", "v to_v v_proj wv value"),
    ("out", "out to_out o_proj wo out_proj output"),
    (
        "attention",
        "attn self_attn mha MultiHeadAttention_0 MultiHeadDotProductAttention_1 multihead_attn SelfAttention",
    ),
    ("mlp", "mlp ff ffn feed_forward feedforward FeedForward"),
    ("norm", "norm ln layer_norm layernorm LayerNorm_0 BatchNorm bn1 rms_norm"),
    ("linear", "fc fc1 linear_2 Dense_0 lin1"),
    ("token", "tok tokens token"),
]


@pytest.mark.parametrize(("meaning", "spellings"), MEANINGS)
def test_spellings_mean_what_they_should_and_nothing_else(meaning, spellings):
    for spelling in spellings.split():
        assert set(names.parse(spelling).words) == {meaning}, spelling


# Pairs that names settle: all layers have one shape, so nothing else could.
SETTLED = [
    ("synonyms", {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}),
    ("more-synonyms", {"attn.wq": "attention.q_proj", "attn.wk": "attention.k_proj", "attn.wv": "attention.v_proj"}),
    ("same-words", {"left": "left_fc", "right": "right_fc"}),
    ("sequence-with-gaps", {"net.0": "layers.0", "net.2": "layers.1", "net.4": "layers.2"}),
    ("counted-from-one", {"fc1": "Dense_0", "fc2": "Dense_1", "fc3": "Dense_2"}),
    ("ten-comes-after-two", {"fc2": "Dense_2", "fc3": "Dense_3", "fc10": "Dense_10"}),
    ("shifted", {"fc1": "fc2", "fc2": "fc3", "fc3": "fc4"}),
    ("other-label", {"hidden.0": "fc1", "hidden.1": "fc2"}),
    ("blocks", {f"blocks.{i}.{a}": f"layers_{i}.{b}" for i in range(3) for a, b in (("q", "query"), ("k", "key"))}),
    ("two-lists", {f"encoder.layers.{i}.fc": f"encoder_layers.{i}.dense" for i in range(3)}
     | {f"decoder.layers.{i}.fc": f"decoder_layers.{i}.dense" for i in range(2)}),
    ("nested-lists", {f"stages.{i}.blocks.{j}.fc": f"stages.{i}.layers.{j}.fc" for i in range(2) for j in range(2)}),
    ("elimination", {"q": "query", "k": "key", "v": "third"}),
    ("one-notion-in-two-words", {"dec.feed_forward": "decoder.mlp", "ff": "feed_forward"}),
    ("same-paths", {"fc": "fc", "linear": "linear"}),
    ("cross-attention", {"self_attn.q": "attn.query", "cross_attn.q": "cross.query"}),
    ("camel-case", {"enc.fc1": "EncoderBlock_0.Dense_0", "enc.fc2": "EncoderBlock_0.Dense_1"}),
]  # fmt: skip


@pytest.mark.parametrize("expected", [row[1] for row in SETTLED], ids=[row[0] for row in SETTLED])
@pytest.mark.parametrize("order", [1, -1])
def test_names_settle_layers_of_one_shape_whatever_the_order_of_definition(expected, order):
    assert pairs(list(expected), list(expected.values())[::order]) == expected


# Layers of one shape whose names do not tell, or contradict: never a guess.
UNSETTLED = [
    ("unrelated", ["q", "k", "v"], ["alpha", "beta", "gamma"]),
    ("unrelated-and-similar", ["q", "k", "v"], ["kappa", "quantum", "vector"]),
    ("one-known-of-three", ["q", "k", "v"], ["query", "a", "b"]),
    ("numbers-against-none", ["fc1", "fc2"], ["first", "second"]),
    ("numbers-against-words", ["attn1.q", "attn2.q"], ["self_attn.query", "cross_attn.query"]),
    ("sequences-of-other-lengths", ["fc1", "fc2", "head"], ["fc2", "head", "extra"]),
    ("one-longer-sequence", ["hidden.0", "hidden.1", "hidden.2"], ["fc1", "fc2", "extra"]),
    ("lists-unknown-both", [f"as.{i}.bs.{j}" for i in (0, 1) for j in (0, 1)],
     [f"cs.{i}.ds.{j}" for i in (0, 1) for j in (0, 1)]),
    ("contradiction", ["a.b.c.q", "k"], ["a.b.c.key", "query"]),
    ("spelled-alike", ["fc1", "dense_2"], ["fc_out", "lin1"]),
    ("identical-towers", ["enc.fc", "dec.fc"], ["left.fc", "right.fc"]),
]  # fmt: skip


@pytest.mark.parametrize(("torch", "flax"), [row[1:] for row in UNSETTLED], ids=[row[0] for row in UNSETTLED])
@pytest.mark.parametrize("order", [1, -1])
def test_names_that_do_not_tell_are_never_guessed(torch, flax, order):
    with pytest.raises(PlanError, match="ambiguous") as caught:
        pairs(torch, flax[::order])
    assert 'Add rules, such as {"' in str(caught.value)


def test_only_pairs_that_every_complete_pairing_has_are_forced():
    """Against all permutations of random graphs; where there is no complete pairing and it shows, nothing is forced."""
    rng = random.Random(0)
    forced = stranded = 0
    for _ in range(500):
        edges = {(i, j) for i in range(4) for j in range(4) if rng.random() < 0.4}
        for group in match._connected(edges):
            left, right = (sorted({edge[place] for edge in group}) for place in (0, 1))
            found = match._forced(group)
            complete = [
                dict(zip(left, order, strict=True)) for order in itertools.permutations(right)
                if len(left) == len(right) and set(zip(left, order, strict=True)) <= group
            ]  # fmt: skip
            if complete:
                assert found == {i: j for i, j in complete[0].items() if all(way[i] == j for way in complete)}
                forced += bool(found)
            else:
                assert found == {}
                stranded += len(left) == len(right) > 1
    assert forced > 50
    assert stranded > 5


def test_shapes_settle_what_names_do_not():
    found = pairs([("a", (5, 3)), ("b", (7, 5)), ("c", (2, 7))], [("x", (2, 7)), ("y", (5, 3)), ("z", (7, 5))])
    assert found == {"a": "y", "b": "z", "c": "x"}


def test_a_layer_that_shapes_settle_tells_whose_container_is_whose():
    torch = ["one.fc", ("one.out", (3, 5)), "two.fc", ("two.out", (4, 5))]
    flax = ["right.fc", ("right.out", (4, 5)), "left.fc", ("left.out", (3, 5))]
    assert pairs(torch, flax) == {
        "one.fc": "left.fc", "one.out": "left.out", "two.fc": "right.fc", "two.out": "right.out",
    }  # fmt: skip


def test_numbers_that_run_against_each_other_are_refused_unless_shapes_force_them():
    torch, flax = ["net.0", ("net.1", (3, 5)), "net.2"], [("net.0", (3, 5)), "net.1", "net.2"]
    with pytest.raises(PlanError, match=r"crossing.*`net.0` with `net.1` and `net.1` with `net.0`"):
        pairs(torch, flax)
    forced = pairs([("net.0", (3, 5)), ("net.1", (4, 5))], [("net.0", (4, 5)), ("net.1", (3, 5))])
    assert forced == {"net.0": "net.1", "net.1": "net.0"}


def test_layers_that_leave_a_module_for_others_are_refused():
    """Else one odd name common to both sides would win against all that stands beside it."""
    torch = [f"{module}.{name}" for module in ("attn", "dec.attn") for name in ("gizmo", "k", "v", "out")]
    torch[4] = "dec.attn.q"
    flax = [f"{module}.{name}" for module in ("attn", "dec.attn") for name in ("query", "k", "v", "out")]
    flax[4] = "dec.attn.gizmo"
    with pytest.raises(PlanError, match=r"crossing: .*modules that otherwise belong together give up one"):
        pairs(torch, flax)
    rules = {"attn.gizmo": "attn.query"}
    assert pairs(torch, flax, rules) == dict(zip(torch, flax, strict=True))


def test_modules_of_one_name_that_change_places_are_refused():
    """`mixer` and `self_attn` are the two the other way round in the port, which only `decoder` shows."""
    torch = ["decoder.mixer.fc", "self_attn.fc"]
    with pytest.raises(PlanError, match=r"crossing"):
        pairs(torch, ["decoder.self_attn.fc", "mixer.fc"])


def test_lists_nested_the_other_way_round_need_a_rule():
    torch = [f"towers.{i}.layers.{j}" for i in range(2) for j in range(2)]
    flax = [f"layers.{j}.towers.{i}" for i in range(2) for j in range(2)]
    with pytest.raises(PlanError, match="crossing"):
        pairs(torch, flax)
    rules = [(one, other) for one, other in zip(torch, flax, strict=True)]
    assert pairs(torch, flax, rules) == dict(zip(torch, flax, strict=True))


def test_a_rule_settles_what_names_do_not_and_fills_in_its_stars():
    torch = [f"enc.{i}.{name}" for i in range(2) for name in "abc"]
    flax = [f"blocks.{i}.{name}" for i in range(2) for name in "xyz"]
    found = pairs(torch, flax, {"enc.*.a": "blocks.*.z", "enc.**b": "blocks.**x"})
    assert found == {
        f"enc.{i}.{a}": f"blocks.{i}.{b}" for i in range(2) for a, b in (("a", "z"), ("b", "x"), ("c", "y"))
    }


def test_a_rule_for_a_tensor_names_its_transform():
    torch = [Layer("w", "parameter", {"value": Tensor("w", (5, 5), "float32")})]
    flax = [Layer("v", "parameter", {"value": Tensor("v", (5, 5), "float32")})]
    (problem,) = problems(torch, flax)
    assert problem.kind == "ambiguous"
    assert "identity or transpose" in problem.message
    for name in ("identity", "transpose"):
        (entry,) = plan(torch, flax, [Rule("w", "v", name)]).entries
        assert entry.transform == name
    (problem,) = problems(torch, flax, {"w": "v"})
    assert "name the transform from `w` (5, 5) to `v` (5, 5)" in problem.message


def test_a_packed_projection_is_taken_apart_by_rules():
    torch = [linear("attn.qkv", (15, 5), bias=True)]
    flax = [linear(f"attn.{name}", bias=True, side="flax") for name in ("query", "key", "value")]
    rules = {f"attn.qkv[{i}/3]": f"attn.{name}" for i, name in enumerate(("query", "key", "value"))}
    assert [e.torch[0].shown for e in plan(torch, flax, rules).entries][:3] == [
        f"attn.qkv.weight[{i}/3]" for i in range(3)
    ]
    del rules["attn.qkv[1/3]"]
    found = problems(torch, flax, rules)
    assert ("missing", "attn.key") in [(problem.kind, problem.path) for problem in found]
    twice = [("attn.qkv[0/3]", "attn.query"), ("attn.qkv[0/3]", "attn.key"), ("attn.qkv[2/3]", "attn.value")]
    assert {problem.kind for problem in problems(torch, flax, twice)} == {"rule"}
    assert "used once, whole or in parts" in str(problems(torch, flax, twice)[0].message)


def test_one_of_three_packed_projections_can_be_ruled_alone():
    packed = Tensor("attn.in_proj_weight", (15, 5), "float32")
    torch = [Layer(f"attn.{n}", "linear", {"weight": packed.piece(i, 3, 0)}) for i, n in enumerate("abc")]
    flax = [linear(name, side="flax") for name in ("c", "b", "x")]
    assert [e.flax[0].path for e in plan(torch, flax, {"attn.a": "x"}).entries] == ["x.kernel", "b.kernel", "c.kernel"]


def test_what_a_rule_leaves_of_a_layer_goes_on_alone():
    torch, flax = [linear("fc", bias=True)], [linear("out", bias=True, side="flax")]
    entries = plan(torch, flax, [("fc.weight", "out.kernel", "transpose")]).entries
    assert [(e.torch[0].path, e.flax[0].path, e.transform) for e in entries] == [
        ("fc.weight", "out.kernel", "transpose"), ("fc.bias", "out.bias", "identity"),
    ]  # fmt: skip


def test_left_over_and_missing_are_errors_that_name_the_nearest():
    torch = [linear("encoder.fc1"), linear("encoder.fc2", (3, 5)), linear("encoder.gate", (2, 7))]
    flax = [linear("encoder.fc1", side="flax"), linear("encoder.fc2", (3, 5), side="flax")]
    (problem,) = problems(torch, flax)
    assert (problem.kind, problem.path) == ("left over", "encoder.gate")
    assert "`encoder.gate` (linear: weight (2, 7)) of torch has no partner in Flax" in problem.message
    assert "Nearest: `encoder.fc" in problem.message
    assert "which has a partner" in problem.message
    assert '("encoder.gate", None) as a rule to leave it alone' in problem.message
    (problem,) = problems(torch[:1], flax)
    assert (problem.kind, problem.path) == ("missing", "encoder.fc2")
    assert '(None, "encoder.fc2") as a rule' in problem.message


def test_a_side_with_nothing_says_so():
    (problem,) = problems([linear("fc")], [])
    assert "There is nothing at all" in problem.message


def test_one_layer_too_many_of_a_shape_is_not_paired_by_chance():
    (problem,) = problems(
        [linear("fc1"), linear("fc2"), linear("skip")],
        [linear("Dense_0", side="flax"), linear("shortcut", side="flax")],
    )
    assert problem.kind == "ambiguous"
    assert "2 layers of torch and 1 of Flax" in problem.message
    assert "One side has more" in problem.message


def test_a_wrong_shape_names_both():
    (problem,) = problems([linear("fc1"), linear("fc2", (3, 5))], [
        linear("fc1", side="flax"), linear("fc2", (3, 7), side="flax"),
    ])  # fmt: skip
    assert problem.kind == "wrong shape"
    assert (
        "`fc2` (linear: weight (3, 5)) of torch cannot become `fc2` (linear: kernel (7, 3)) of Flax" in problem.message
    )


def test_a_bias_on_one_side_only_is_no_match():
    (problem,) = problems([linear("fc", bias=True)], [linear("fc", side="flax")])
    assert problem.kind == "wrong shape"


def test_heads_that_differ_are_no_match_though_sizes_agree():
    torch = linear("q_proj", (12, 12), heads=3)
    flax = Layer("query", "linear", {"kernel": Tensor("query.kernel", (12, 4, 3), "float32")}, {"heads": 4})
    (problem,) = problems([torch], [flax])
    assert "options {'heads': 3} and {'heads': 4}" in problem.message


def test_all_problems_come_at_once():
    torch = [linear("a"), linear("b"), linear("c", (2, 3)), linear("d", (7, 3))]
    flax = [linear("x", side="flax"), linear("y", side="flax"), linear("c", (2, 4), side="flax")]
    assert sorted(problem.kind for problem in problems(torch, flax)) == ["ambiguous", "left over", "wrong shape"]
    with pytest.raises(PlanError, match="3 problems:"):
        plan(torch, flax)


BAD_RULES = [
    ({"fcc": "fc"}, "there is no layer or tensor of torch `fcc`; nearest: `fc`"),
    ({"fc": "fcc"}, "there is no Flax layer `fcc`; nearest: `fc`"),
    ({"fc.weight": "fc.weight"}, "there is no Flax tensor `fc.weight`; nearest: `fc.kernel`"),
    ([("fc.weight", "fc.kernel", "conv")], "conv .* does not make `fc.weight` .5, 5. into `fc.kernel`"),
    ([(None, "pe")], "there is no layer or tensor of Flax `pe`"),
    ({"fc[0/2]": "fc"}, "expected an axis that 2 equal parts fill"),
]


@pytest.mark.parametrize(("rules", "words"), BAD_RULES)
def test_a_rule_that_fits_nothing_is_an_error(rules, words):
    with pytest.raises(PlanError, match=words):
        plan([linear("fc")], [linear("fc", side="flax")], rules)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rule("a.*.b", "c"), "as many stars on both sides"),
        (lambda: Rule(None, None), "a pattern on one side at least"),
        (lambda: Rule("a", "b", "rotate"), "expected a transform, one of identity, .*; got 'rotate'"),
    ],
)
def test_a_rule_that_says_nothing_is_an_error(make, words):
    with pytest.raises(WeightsError, match=words):
        make()


def test_a_convention_that_shapes_do_not_tell_is_asked_for():
    """A square transposed convolution from Linen variables alone: `transpose_kernel` is not among them."""
    torch = Layer("up", "conv_transpose", {"weight": Tensor("up.weight", (5, 5, 3), "float32")})
    flax = Layer("up", "kernel", {"kernel": Tensor("params.up.kernel", (3, 5, 5), "float32")})
    (problem,) = problems([torch], [flax])
    assert "conv_transpose or conv_transpose_swapped?" in problem.message
    rule = Rule("up.weight", "params.up.kernel", "conv_transpose")
    assert plan([torch], [flax], [rule]).entries[0].transform == "conv_transpose"
