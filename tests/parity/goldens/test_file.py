"""A file that is no golden is told apart from one that was, and from one that will be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from parity.errors import BadInput
from parity.goldens import file
from parity.goldens.plain import decode, encode
from parity.pairs.cases import PairCase
from parity.weights import files
from parity.weights.layers import Layer, Tensor

WEIGHT = "parity_golden.mlp/weight/0.bias"
GOLDEN = Path(__file__).parents[2] / "goldens" / "mlp.safetensors"


@pytest.fixture
def spoilt(tmp_path):
    """The golden with a change to its arrays, its header, or its metadata, and its checksum made right again."""

    def call(*, header=lambda h: None, arrays=lambda a: None, right=True, **metadata):
        tensors, words = files.contents(GOLDEN)
        content = json.loads(words["golden"])
        header(content)
        words["golden"] = json.dumps(content)
        arrays(tensors)
        if right:
            words["sha256"] = file._sum(words["golden"], tensors)
        path = tmp_path / "spoilt.safetensors"
        files.write(path, tensors, words | metadata)
        return path

    return call


def refused(path, words):
    with pytest.raises(BadInput, match=words) as caught:
        file.read(path)
    assert str(path) in str(caught.value)


def test_the_spoiling_alone_spoils_nothing(spoilt):
    assert file.read(spoilt()).recordings.keys() == file.read(GOLDEN).recordings.keys()


def test_every_cut_is_noticed(tmp_path):
    good, path = GOLDEN.read_bytes(), tmp_path / "cut.safetensors"
    for length in [0, 5, 8, 100, *range(1000, len(good), 4999), len(good) - 1]:
        path.write_bytes(good[:length])
        refused(path, "cut off|got something else")


def test_every_flipped_byte_is_noticed(tmp_path):
    good, path = GOLDEN.read_bytes(), tmp_path / "flipped.safetensors"
    for at in np.random.default_rng(0).integers(8, len(good), 200):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(BadInput):
            file.read(path)


def first_case(header):
    return header["references"][0]["cases"][0]["case"]


BAD = [
    ("another file", {"format": "pt"}, "expected a golden, as `parity record` writes it, got another safetensors file"),
    ("the future", {"version": "2"}, "expected a golden of version 1, got version 2. It is read by a later parity"),
    ("a number", {"arrays": lambda a: a.update({WEIGHT: np.ones(16, np.float32)}), "right": False},
     "corrupt: expected what its checksum says"),
    ("no input", {"arrays": lambda a: a.pop("parity_golden.mlp,batch=2,n=3/input/input")}, "needs an input input"),
    ("no kind", {"header": lambda h: h.pop("kind")}, "its header is not that of a golden of version 1"),
    ("a kind", {"header": lambda h: h.update(kind="convolution")}, "expected the kind attention or pair"),
    ("a field", {"header": lambda h: first_case(h).update(colour="red")}, "a PairCase has no colour"),
    ("a type", {"header": lambda h: first_case(h).update(name=3)}, "expected str, got 3"),
    ("references", {"header": lambda h: h.update(references=7)}, "not that of a golden"),
    ("twice", {"header": lambda h: h.update(references=h["references"] * 2)}, "two cases have one name"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_wrong_is_said(spoilt, changes, words):
    refused(spoilt(**changes), words)


def test_an_attention_golden_without_its_truth(tmp_path):
    arrays, words = files.contents(GOLDEN.with_name("attention.safetensors"))
    name = next(name for name in arrays if name.endswith("truth/output"))
    del arrays[name]
    words["sha256"] = file._sum(words["golden"], arrays)
    files.write(tmp_path / "g.safetensors", arrays, words)
    refused(tmp_path / "g.safetensors", "has no truth or no width of output")


def test_a_golden_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    path.write_bytes(GOLDEN.read_bytes())

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(BadInput, match="no space left"):
        file.write(path, file.read(GOLDEN))
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(GOLDEN.read_bytes()).digest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.safetensors"]


def test_dataclasses_come_back_as_they_were():
    layer = Layer("a", "linear", {"w": Tensor("a.w", (6, 5), "float32", names=("b.w",)).piece(1, 3, 0)}, {"heads": 2})
    assert decode(Layer, json.loads(json.dumps(encode(layer)))) == layer
    with pytest.raises(TypeError):
        decode(PairCase, {"name": "x"})
