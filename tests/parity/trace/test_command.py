"""`parity trace` from end to end: the answer, the table, the JSON, the exit code."""

from __future__ import annotations

import json

FAULTS = "parity_trace.py"


def test_the_answer_and_the_json(cli, tmp_path):
    path = tmp_path / "trace.json"
    pairs = [f"--pair={FAULTS}:{name}" for name in ("epsilon", "right", "raises", "random")]
    ran = cli("trace", *pairs, "--device", "cpu", "--json", str(path))
    assert ran.code == 1, ran.words
    document = json.loads(path.read_text())
    epsilon, right, raises, random = document["cases"]
    assert document["exit_code"] == 1
    assert epsilon["answer"] in ran.out
    assert epsilon["answer"].startswith(
        "first bad module: blocks.1.norm (LayerNorm) <-> blocks.1.norm (nnx.LayerNorm): wrong by itself (error/bound "
    )
    assert epsilon["answer"].endswith("likely epsilon 1e-05 against 1e-06")
    assert (epsilon["first"], epsilon["direction"]) == ("blocks.1.norm#0", "forward")
    bad = {row["torch"]: row["forward"] for row in epsilon["modules"]}["blocks.1.norm#0"]
    assert bad["alone"]["bound_ratio"] > 1 > bad["given"]["bound_ratio"]
    assert right["answer"] == "no divergence: 17 calls of 17 modules compared, 0 not aligned"
    assert (right["status"], right["first"]) == ("passed", None)
    assert raises["answer"].startswith("first bad module: the candidate raised in blocks.1: TypeError")
    assert random["status"] == "skipped"
    assert "passes it on" in ran.out


def test_nothing_compared_and_bad_input(cli):
    assert cli("trace", "--pair", f"{FAULTS}:random", "--device", "cpu", "--quiet").code == 4
    assert cli("trace", "--pair", f"{FAULTS}:nobody").code == 2
    assert cli("trace", "--pair", f"{FAULTS}:right", "--case", "x*").code == 2
    assert cli("trace").code == 2
