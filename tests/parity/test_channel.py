"""Messages between processes: large arrays are written once and read in place, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from multiprocessing import get_context
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity import channel, mapped
from parity.channel import LARGE, Channel
from parity.process import Side, spawn, wait_for

MEBI = 1 << 20


@pytest.fixture
def ends():
    here, there = map(Channel, get_context("spawn").Pipe())
    yield here, there
    here.close()
    there.close()


def passed(ends, message):
    here, there = ends
    sender = threading.Thread(target=here.send, args=(message,))
    sender.start()
    found = there.recv()
    sender.join()
    return found


def files():
    gc.collect()
    return {int(name) for name in os.listdir("/proc/self/fd")}


ARRAYS = {
    "float32": np.random.default_rng(0).standard_normal((173, 211)).astype(np.float32),
    "bfloat16": np.random.default_rng(0).standard_normal((211, 173)).astype(ml_dtypes.bfloat16),
    "bool": np.random.default_rng(0).random((307, 311)) < 0.5,
    "transposed": np.random.default_rng(0).standard_normal((211, 97)).T,
    "a number": np.array(3.0),
    "empty": np.empty((0, 5)),
    "small": np.arange(7),
    "words": np.array(["a", "bc"], object),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_an_array_comes_as_it_was_and_may_be_written_to(ends, array):
    found = passed(ends, {"x": array})["x"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)
    before = array.copy()
    found[...] = 0
    assert np.array_equal(array, before)


def test_a_large_array_is_no_part_of_the_pickle(ends, monkeypatch):
    sizes = []
    real = pickle.dumps
    monkeypatch.setattr(channel.Connection, "send", lambda self, value: sizes.append(len(real(value))), raising=False)
    monkeypatch.setattr(channel.reduction, "send_handle", lambda *given: None)
    ends[0].send({"x": np.zeros(8 * MEBI, np.uint8), "y": np.zeros(MEBI, ml_dtypes.bfloat16)})
    assert sizes[0] < LARGE


def test_what_lies_in_a_file_is_not_written_again(ends, tmp_path, monkeypatch):
    from parity.weights import files as weights

    arrays = {name: np.random.default_rng(n).standard_normal(LARGE + n) for n, name in enumerate("abc")}
    weights.write(tmp_path / "w.safetensors", arrays)
    monkeypatch.setattr(channel, "_nameless", lambda: pytest.fail("written again"))
    found = passed(ends, weights.read(tmp_path / "w.safetensors"))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    with pytest.raises(ValueError, match="read-only"):  # as where it was sent
        found["a"][:] = 0


def test_arrays_of_a_file_and_others_come_in_order(ends, tmp_path):
    from parity.weights import files as weights

    weights.write(tmp_path / "w.safetensors", {"w": np.full(LARGE, 2.0), "v": np.full(LARGE, 3.0)})
    there = weights.read(tmp_path / "w.safetensors")
    found = passed(ends, [np.full(LARGE, 1.0), there["w"], there["v"], np.full(LARGE, 4.0)])
    assert [array[-1] for array in found] == [1, 2, 3, 4]


def test_one_array_under_two_names_travels_once(ends):
    array = np.zeros(LARGE)
    found = passed(ends, {"x": array, "tied": array})
    assert found["x"] is found["tied"]


def test_arrays_of_any_length_share_a_file(ends):
    arrays = [np.full(LARGE + n, n, np.uint8) for n in (1, 3, 5)]
    before = files()
    found = passed(ends, arrays)
    assert len(files() - before) == 1
    assert all(np.array_equal(*pair) for pair in zip(found, arrays, strict=True))


def test_memory_is_given_back_file_by_file(ends, monkeypatch):
    monkeypatch.setattr(channel, "FILE", MEBI)
    before = files()
    found = passed(ends, [np.full(MEBI, n, np.uint8) for n in range(5)])
    assert len(files() - before) == 5
    del found[:3]
    assert len(files() - before) == 2
    assert found[0][0] == 3
    del found
    assert files() == before


def test_a_message_of_many_arrays_takes_few_open_files(ends):
    before = files()
    found = passed(ends, [np.zeros(LARGE, np.uint8) for _ in range(1500)])
    assert len(found) == 1500
    assert len(files() - before) <= 65


def answers(connection, size):
    """A worker that sends one array, and dies in the middle of the next."""
    connection.send(np.ones(size))
    channel.FILE = LARGE
    real, sent = channel.reduction.send_handle, []

    def dying(*given):
        if len(sent) == 2:
            os._exit(7)
        sent.append(real(*given))

    channel.reduction.send_handle = dying
    connection.send([np.ones(size) for _ in range(5)])


def test_who_dies_in_the_middle_of_a_message_is_gone_and_leaves_nothing():
    there = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    process, connection = spawn(answers, LARGE)
    assert connection.recv().sum() == LARGE
    with pytest.raises(EOFError):
        connection.recv()
    process.join()
    assert process.exitcode == 7
    connection.close()
    assert (set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()) <= there


def counting(connection, spec, options):
    """A side whose job takes three passes."""
    from parity.messages import Outcome, Pass

    del options
    connection.send(spec)
    job = connection.recv()
    for number in range(3):
        connection.send(Pass(number, 3))
    connection.send(Outcome(job.key, {"x": np.ones(LARGE)}))
    connection.recv()


class Job:
    key = 5


def test_a_side_is_heard_of_before_it_answers():
    from parity.messages import Pass

    side = Side("hello", None, label="reference", timeout=30.0, main=counting)
    heard = []
    side.heard = heard.append
    try:
        assert side.hello() == "hello"
        side.submit(Job())
        outcome = None
        while outcome is None:
            wait_for([side], 1.0)
            outcome = side.poll()
    finally:
        side.close()
    assert heard == [Pass(0, 3), Pass(1, 3), Pass(2, 3)]
    assert (outcome.key, outcome.arrays["x"].sum(), side.busy) == (5, LARGE, False)


def test_what_is_spilled_is_the_same_and_rests():
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype != object} | {"again": ARRAYS["float32"]}
    found = mapped.spilled(arrays)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array)
    assert np.shares_memory(found["float32"], found["again"])
    assert mapped.within(found["bfloat16"].view(np.uint8).data) is not None
    mapped.rest(found)
    assert np.array_equal(found["transposed"], arrays["transposed"])


def test_what_rests_takes_no_memory():
    found = mapped.spilled({"x": np.ones(8 * MEBI)})
    found["x"].sum()
    looked_at = resident()
    mapped.rest(found)
    assert looked_at - resident() > 48 * MEBI


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_full_disk_leaves_arrays_where_they_are(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", full)
    array = np.ones(3)
    assert mapped.spilled({"x": array})["x"] is array
