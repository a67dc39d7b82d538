"""Bad input exits 2 and says what was expected, what came, and what to do."""

from __future__ import annotations

import importlib

import pytest

PORT = ("--candidate", "parity.mutants:plain_port")

BAD = [
    (("run", "--suite", "smok"), "--suite must be one of smoke, default"),
    (("run", "--dtype", "float32,float8"), "--dtype must be one or more of float32, bfloat16, float16"),
    (("run", "--device", "tpu"), "--device must be cpu or gpu; got 'tpu'"),
    (("run", "--case", "no-such-*"), "matches no case"),
    (("run", "--case", "S1,i=x"), "matches no case"),
    (("run", "--case", "S1,values=unheard-of"), "values"),
    (("run", "--case", "S1,values=nan-bias"), "values"),
    (("run", "--case", "S1", "--dtype", "float16"), "no case that was asked for is in float16"),
    (("run", "--shard", "4/3"), "--shard must be i/n with 1 <= i <= n, as 2/3; got '4/3'"),
    (("run", "--shard", "0/3"), "--shard must be i/n"),
    (("run", "--shard", "a"), "--shard must be i/n"),
    (("run", "--fuzz", "2", "--case", "S1"), "--fuzz draws its own cases"),
    (("run", "--fuzz", "0"), "--fuzz"),
    (("run", "--seed", "-1"), "--seed"),
    (("run", "--implementation", "einsum,"), "--implementation must be NAME or NAME,NAME"),
    (("run", "--reference", "attend_torch"), "expected [torch:|jax:]MODULE:NAME"),
    (("run", "--no-such-option",), "--no-such-option"),
    (("run", "--json", "no-such-folder/x.json"), "--json: there is no folder no-such-folder"),
    (("run", "--json", "."), "--json must be a file"),
    (("run", "--junit", "no-such-folder/x.xml"), "--junit: there is no folder no-such-folder"),
    (("run", "--save-failures", "odd.py"), "--save-failures must be a folder"),
    (("show", "no-such-case"), "matches no case"),
    (("list", "--suite", "smok"), "--suite must be one of"),
    (("mutate", "--suite", "smok"), "--suite must be one of"),
    (("mutate", "--json", "no-such-folder/x.json"), "--json: there is no folder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_2_in_words_before_anything_runs(cli, monkeypatch, arguments, words):
    from parity import mutate, pipeline

    importlib.import_module("parity.runner")  # whole, before a part of it is taken away
    monkeypatch.setattr(pipeline, "Session", None)
    monkeypatch.setattr(mutate, "main", None)
    ran = cli(*arguments)
    assert (ran.code, words in ran.words) == (2, True), ran.words
    assert "Traceback" not in ran.words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--candidate", "no_such_module:Attend"), "candidate no_such_module:Attend: there is no module"),
        (("--candidate", "third_party:Atend"), "did you mean Attend?"),
        (("--reference", "raising:Attend", *PORT), "RuntimeError: the weights file is missing"),
        (("--implementation", "no-such"), "--implementation no-such: "),
        (("--implementation", "cudnn", "--device", "cpu"), "--implementation cudnn: "),
        ((*PORT, "--implementation", "einsum"), "does not accept implementation"),
        ((*PORT, "--device", "gpu"), "--device gpu: torch sees no GPU here"),
    ],
)
def test_what_only_a_side_can_tell_is_2_too(cli, arguments, words):
    ran = cli("run", "--case", "S1", *arguments)
    assert (ran.code, words in ran.words) == (2, True), ran.words
    assert "fault of parity" not in ran.words
