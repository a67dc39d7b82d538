"""`parity doctor --pair`: each setting that differs is found, those that do not are not, and the exit code says it."""

from __future__ import annotations

import pytest
import torch

from parity.pairs.audit import EFFECTS, NOTES, audit
from parity.pairs.messages import PairSide

FILE = "parity_settings.py"
# Always there: what the frameworks do differently, and the bound allows.
USUAL = {"subnormal numbers", "16-bit accumulation"}
NORMS = {"running variance of 1", "variance of 1, 5"}


def rows(name, monkeypatch):
    """The rows of a planted pair, by setting, without processes."""
    from parity.pairs import audit_flax, audit_torch
    from tests.parity.conftest import CANDIDATES

    monkeypatch.syspath_prepend(str(CANDIDATES))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as a worker has it
    spec = f"{CANDIDATES / FILE}:{name}"
    sides = audit_torch.examine(PairSide(spec, "torch")), audit_flax.examine(PairSide(spec, "flax"))
    return {row.setting: row for row in audit(*sides) if row.setting not in USUAL}


def counting(found):
    return {setting: (row.torch, row.flax) for setting, row in found.items() if row.counts}


def test_of_equal_settings_only_the_frameworks_own_ways_are_noted(monkeypatch):
    found = rows("same", monkeypatch)
    assert set(found) == NORMS
    assert counting(found) == {}


def test_each_setting_that_differs_is_found(monkeypatch):
    found = rows("wrong", monkeypatch)
    assert counting(found) == {
        "padding of 0": ("[(1, 1), (1, 1)]", "[(0, 0), (0, 0)]"),
        "momentum of 1": ("0.1 of the batch", "0.9 of the batch"),
        "epsilon of 5": ("1e-05", "1e-06"),
        "computes in of 6": ("float32", "bfloat16"),
        "GELU": ("exact", "tanh"),
    }
    assert found["momentum of 1"].effect == EFFECTS["momentum"]
    assert found["running variance of 1"].effect == NOTES["running variance"]


def test_a_linen_module_is_seen_in_its_own_call(monkeypatch):
    assert counting(rows("in_linen", monkeypatch)) == {
        "epsilon of norm": ("1e-05", "1e-06"),
        "dropout rates": ("none", "0.2"),
    }


def test_convolutions_and_what_is_made_of_their_padding(monkeypatch):
    found = counting(rows("convolutions", monkeypatch))
    assert found == {
        "padding of 1": ("[(2, 2)]", "[(4, 0)]"),
        "dilation of 2": ("(4,)", "(2,)"),
        "padding of 2": ("[(4, 4)]", "[(2, 2)]"),
        "padding of 4": ("[(1, 2)]", "[(2, 1)]"),
    }


def test_layers_that_do_not_correspond_are_said_to(monkeypatch):
    assert "layers are not compared: `6` (linear" in rows("other_weights", monkeypatch)["weights"].effect


@pytest.mark.parametrize(
    ("pair", "code", "words"),
    [
        (f"{FILE}:same", 0, "nothing differs that counts"),
        (f"{FILE}:tf32", 1, "float32 products TF32 float32"),
        (f"{FILE}:unmade", 3, "flax side cannot run"),
        ("parity_broken.py", 2, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_exit_code_says_what_was_found(cli, monkeypatch, pair, code, words):
    monkeypatch.setenv("COLUMNS", "250")
    ran = cli("doctor", "--pair", pair)
    assert ran.code == code
    assert words in ran.words
