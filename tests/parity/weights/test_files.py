"""Safetensors in and out, and what is none; the JSON of a map likewise."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import torch

from parity.weights import Entry, Tensor, WeightMap, WeightsError, read, write

ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "brain": np.arange(6, dtype=np.float32).reshape(3, 2).astype(ml_dtypes.bfloat16),
    "small": np.arange(4, dtype=np.float32).astype(ml_dtypes.float8_e4m3fn),
    "scalar": np.float32(3).reshape(()),
    "ids": np.arange(5),
    "mask": np.array([True, False]),
    "flipped": np.arange(6.0)[::-1],
    "empty": np.zeros((0, 3), np.float32),
}


def test_arrays_come_back_bit_for_bit(tmp_path):
    write(tmp_path / "w.safetensors", ARRAYS, {"made by": "a test"})
    back = read(tmp_path / "w.safetensors")
    assert back.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()


def test_torch_reads_what_is_written_here_and_the_reverse(tmp_path):
    from safetensors.torch import load_file, save_file

    write(tmp_path / "w.safetensors", {"w": ARRAYS["brain"]})
    assert torch.equal(load_file(tmp_path / "w.safetensors")["w"], torch.arange(6.0).reshape(3, 2).bfloat16())
    save_file({"w": torch.arange(6.0).bfloat16()}, tmp_path / "t.safetensors")
    assert read(tmp_path / "t.safetensors")["w"].astype(np.float32).tolist() == [0, 1, 2, 3, 4, 5]


def whole(tmp_path):
    write(tmp_path / "w.safetensors", {"w": np.ones((2, 3), np.float32)})
    return (tmp_path / "w.safetensors").read_bytes()


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(24)


BAD = [
    ("empty", lambda good: b"", "expected a safetensors file, got something else .0 bytes."),
    ("text", lambda good: b"hello, this is not one", "expected a safetensors file, got something else"),
    ("header-cut", lambda good: good[:20], "cut off in the header"),
    ("body-cut", lambda good: good[:-5], "cut off: it needs"),
    ("too-long", lambda good: good + b"xyz", "3 bytes too long"),
    ("pickle", lambda good: b"\x80\x04K\x01.", "got a pickle or zip archive, as torch.save writes"),
    ("zip", lambda good: b"PK\x03\x04rest", "got a pickle or zip archive"),
    ("no-json", lambda good: good[:8] + b"{" + bytes(len(good) - 9), "corrupt"),
    ("dtype", lambda good: with_header({"w": {"dtype": "F7", "shape": [6], "data_offsets": [0, 24]}}), "unknown dtype"),
    ("shape", lambda good: with_header({"w": {"dtype": "F32", "shape": [7], "data_offsets": [0, 24]}}), "corrupt"),
    ("offsets", lambda good: with_header({"w": {"dtype": "F32", "shape": [], "data_offsets": [-4, 24]}}), "offsets"),
    ("entry", lambda good: with_header({"w": 3}), "corrupt"),
]


@pytest.mark.parametrize(("spoil", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_file_that_is_none_is_a_clear_error(tmp_path, spoil, words):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(spoil(whole(tmp_path)))
    with pytest.raises(WeightsError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_every_way_to_cut_a_file_off_is_noticed(tmp_path):
    good, path = whole(tmp_path), tmp_path / "cut.safetensors"
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(WeightsError):
            read(path)


def test_a_missing_file_and_a_dtype_that_files_lack(tmp_path):
    with pytest.raises(WeightsError, match="could not read it: No such file"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="could not write it"):
        write(tmp_path / "no" / "folder.safetensors", {"w": np.ones(2)})
    with pytest.raises(WeightsError, match="`w`: expected a dtype that safetensors has, got <U1"):
        write(tmp_path / "w.safetensors", {"w": np.array(["a"])})


MAP = WeightMap((
    Entry((Tensor("a.weight", (6, 5), "bfloat16").piece(1, 3, 0),), (Tensor("b", (5, 2), "float32"),), "linear", "x"),
    Entry((), (Tensor("rng", (), "key<fry>", names=("other",)),), "ignored", "a reason"),
))  # fmt: skip


def test_a_map_comes_back_as_it_was():
    assert WeightMap.loads(MAP.dumps()) == MAP
    assert len(MAP.dumps().splitlines()) == len(MAP.entries) + 2, "an entry a line, to be read and compared"


BAD_MAPS = [
    ("not json", "got text that is none"),
    ("[]", 'expected a weight map of version 1 .key "parity weight map"., got none'),
    (MAP.dumps().replace('map": 1', 'map": 2'), "got version 2"),
    (MAP.dumps().replace('"linear"', '"rotate"'), "expected a transform, one of"),
    (MAP.dumps().replace('"linear"', '"conv"'), "conv does not make a.weight"),
    (MAP.dumps().replace("[5, 2]", "[5, 3]"), "linear does not make a.weight"),
    (MAP.dumps().replace('"why"', '"because"'), "expected the entries of a weight map, got something else"),
    (MAP.dumps().replace('"bfloat16"', '"float17"'), "got something else"),
]


@pytest.mark.parametrize(("text", "words"), BAD_MAPS)
def test_a_map_that_is_none_is_a_clear_error(tmp_path, text, words):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(WeightsError, match=words) as caught:
        WeightMap.load(tmp_path / "map.json")
    assert "map.json" in str(caught.value)


def test_a_map_file_that_is_missing_or_binary(tmp_path):
    with pytest.raises(WeightsError, match="could not read it: No such file"):
        WeightMap.load(tmp_path / "none.json")
    (tmp_path / "map.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match="bytes that are no text"):
        WeightMap.load(tmp_path / "map.json")
