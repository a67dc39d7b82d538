"""From what a user types to something that can be called, and the words where that does not work."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

from parity.attention import Attention
from parity.messages import Options
from parity.process import Side
from parity.spec import BadSpec, Interface, Spec, annotated_framework, interface, load, module_kind


@pytest.fixture
def here(monkeypatch, request):
    """The candidates' folder is the current one, and on the path, as a worker has it."""
    folder = request.path.parent / "candidates"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("port:Attend", Spec(None, "port", "Attend")),
        ("my.port:Attend", Spec(None, "my.port", "Attend")),
        ("torch:port:Attend", Spec("torch", "port", "Attend")),
        ("jax:a.b:C.d", Spec("jax", "a.b", "C.d")),
        ("torch:nn", Spec(None, "torch", "nn")),
    ],
)
def test_a_spec_is_taken_apart(text, spec):
    assert Spec.parse(text) == spec
    assert str(spec) == f"{spec.module}:{spec.name}"


@pytest.mark.parametrize("text", ["", "port", "port:", ":Attend", "torch:port:", "tf:port:Attend", "a:b:c:d"])
def test_what_is_no_spec_is_refused_with_an_example(text):
    with pytest.raises(BadSpec, match="MODULE:NAME, for example") as refusal:
        Spec.parse(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_such_module:Attend", ["no module 'no_such_module'"]),
        ("third_party.inner:Attend", ["third_party.inner"]),
        ("lacking:Attend", ["'lacking' needs 'no_such_package_here', which is not installed"]),
        ("third_party:Atend", ["'third_party' has no 'Atend'", "did you mean Attend?"]),
        ("third_party:zzzzzz", ["has no 'zzzzzz'"]),
        ("third_party:not_callable", ["is a int", "expected a class like Attend or a function"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_loaded_is_said_in_words(text, words):
    with pytest.raises(BadSpec) as refusal:
        load(Spec.parse(text))
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.usefixtures("here")
def test_a_module_that_raises_shows_its_own_traceback_only():
    with pytest.raises(BadSpec) as refusal:
        load(Spec.parse("raising:Attend"))
    words = str(refusal.value)
    assert "RuntimeError: the weights file is missing" in words
    assert words.count("raising.py") == 2
    assert "importlib" not in words
    assert "spec.py" not in words


@pytest.mark.usefixtures("here")
def test_a_name_may_be_dotted():
    assert load(Spec.parse("third_party:Attend.forward")).__name__ == "forward"


@pytest.mark.usefixtures("here")
def test_kinds_by_base_class():
    import flax_ports
    import functions
    import third_party

    kinds = {t: module_kind(t) for t in (third_party.Attend, flax_ports.Nnx, flax_ports.UpperLeft, flax_ports.Linen)}
    assert list(kinds.values()) == ["torch", "nnx", "nnx", "linen"]
    assert module_kind(functions.of_jax) is module_kind(dict) is None


@pytest.mark.usefixtures("here")
def test_framework_by_annotation():
    import functions

    assert annotated_framework(functions.annotated) == "jax"
    assert annotated_framework(functions.of_jax) is None

    def both(q: torch.Tensor, k: jax.Array): ...

    assert annotated_framework(both) is None


def test_what_a_target_accepts_is_read_off_its_signatures():
    class Plain:
        def __init__(self, causal=False, **rest): ...
        def __call__(self, q, k, v, *, bias=None): ...

    face = interface(Plain, "jax")
    assert face.kind == "class"
    assert face.constructor == {"causal", "dropout", "flash"}, "a bare ** is taken at its word"
    assert face.call == {"self", "q", "k", "v", "bias"} - ({"self"} - face.call)
    function = interface(lambda q, k, v, bias=None: q, "torch")
    assert (function.kind, function.constructor, function.call) == ("function", set(), {"q", "k", "v", "bias"})


MODULE = Interface("torch", "torch", frozenset({"dropout", "flash", "causal"}), frozenset({"q", "k", "v", "bias"}))
FUNCTION = Interface(
    "jax", "function", frozenset(), frozenset({"query", "bias", "causal", "dropout_rate", "scale", "mask"})
)  # fmt: skip


@pytest.mark.parametrize(
    ("face", "fields", "words"),
    [
        (MODULE, {"causal": True, "flash": True, "bias": "hij"}, None),
        (MODULE, {"mask": "ij"}, "does not accept mask"),
        (MODULE, {"mask": "ij", "logsumexp": True}, "does not accept mask, return_logsumexp"),
        (MODULE, {"layout": "bnhd"}, "does not accept layout"),
        (MODULE, {"dropout": 0.5}, "does not accept dropout_mask"),
        (MODULE, {"dropout": 0.5, "kind": "dropout"}, None),
        (MODULE, {"causal": "upper_left"}, None),
        (
            dataclasses.replace(MODULE, corners=False), {"causal": "upper_left"},
            "does not tell causal='upper_left' from causal='lower_right'",
        ),
        (dataclasses.replace(MODULE, corners=False), {"causal": True}, None),
        (FUNCTION, {"flash": True, "mask": "ij", "scale": 0.3}, None),
        (FUNCTION, {"layout": "bnhd"}, "does not accept layout"),
        (FUNCTION, {"dropout": 0.5, "kind": "dropout"}, "accepts no rng (dropout_rng, rng, key, dropout_key or rngs)"),
        (
            dataclasses.replace(FUNCTION, corners=False), {"flash": True, "causal": True},
            "does not tell causal='upper_left' from causal='lower_right'",
        ),
    ],
)  # fmt: skip
def test_what_a_side_lacks_is_said_by_name(face, fields, words):
    assert face.missing(Attention(**fields).case()) == words


def test_the_key_beside_a_query_is_no_rng():
    names = ("dropout_rng", "key")
    assert dataclasses.replace(FUNCTION, call=FUNCTION.call | {*names}).rngs == {"dropout_rng"}
    assert dataclasses.replace(FUNCTION, call=frozenset({"q", "k", "v", *names})).rngs == {*names}


def test_a_class_gets_arguments_where_it_takes_them():
    face = dataclasses.replace(MODULE, call=MODULE.call | {"causal", "return_logsumexp"})
    case = Attention(causal=True, flash=True, logsumexp=True).case()
    assert face.arguments(case, None) == (
        {"dropout": 0.0, "flash": True, "causal": True}, {"return_logsumexp": True},
    )  # fmt: skip


def test_a_function_without_flash_gets_the_corner_that_flash_means():
    case = Attention(causal=True, flash=True, dropout=0.5).case()
    assert FUNCTION.arguments(case, None) == ({}, {"causal": "upper_left", "dropout_rate": 0.5})
    assert FUNCTION.arguments(Attention(causal=True).case(), None)[1]["causal"] is True


def test_an_implementation_is_passed_where_it_is_accepted():
    face = dataclasses.replace(FUNCTION, call=FUNCTION.call | {"implementation"})
    assert face.arguments(Attention().case(), "einsum")[1]["implementation"] == "einsum"
    assert "implementation" not in FUNCTION.arguments(Attention().case(), "einsum")[1]


@pytest.mark.usefixtures("here")
def test_workers_find_the_framework_and_say_why_not():
    """By trial, as base classes and annotations need no worker; and what it refuses. All are started at once."""
    texts = {
        "third_party:function": ("torch", "function"),
        "functions:of_jax": ("jax", "function"),
        "neither:function": "answers neither torch nor JAX arrays",
        "jax:third_party:Attend": "was called a jax module, but it is a torch one",
        "third_party:NeedsMore": "cannot be constructed with dropout, flash and causal alone: TypeError",
        "leaving:Attend": "took its process down while loading (exit code 3)",
        "dying:Attend": "took its process down while loading (exit code 9)",
    }
    sides = {t: Side(Spec.parse(t), Options(device="cpu"), label="candidate", timeout=60) for t in texts}
    try:
        for text, expected in texts.items():
            if isinstance(expected, tuple):
                face = sides[text].hello().interface
                assert (face.framework, face.kind) == expected
                assert not face.corners
            else:
                with pytest.raises(BadSpec) as refusal:
                    sides[text].hello()
                assert expected in str(refusal.value), text
    finally:
        for side in sides.values():
            side.close()


def test_grouped_heads_are_skipped_where_a_target_does_not_do_them():
    case = Attention(kv_heads=2).case()
    assert dataclasses.replace(MODULE, groups=False).missing(case) == "does not do grouped heads (S13)"
    assert dataclasses.replace(MODULE, groups=False).missing(Attention(kv_heads=1).case()) is None


def test_training_and_evaluation_are_said_in_each_spelling():
    face = dataclasses.replace(MODULE, call=frozenset({"train", "deterministic"}))
    assert face.flags(True) == {"train": True, "deterministic": False}
    assert face.flags(False) == {"train": False, "deterministic": True}
