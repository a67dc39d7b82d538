"""What `parity` adds to running both sides of a large pair: seconds, passes in float64, memory.

    python docs/pair-speed.py [--pair small|large] [--skip uncached,trace]

`large` has 50 M parameters, `small` 5 M. First both sides alone, in one plain process that knows nothing of parity:
both frameworks imported, both modules made, the weights transferred, one forward and backward pass each. Then
`parity run --pair` with an empty folder of spreads, again with what that kept, and `parity trace`. A row each: wall
seconds, CPU seconds of all its processes, the most memory that they held together (a shared page is counted once; a
file that is mapped, by the pages that were looked at), and how often the reference was computed in float64 and in
float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity import Input, Pair

HERE = Path(__file__).resolve()
# The reference writes a letter here each time that it is called: small for a pass in float32, capital in float64.
PASSES = "PAIR_SPEED_PASSES"


@dataclasses.dataclass(frozen=True)
class Size:
    features: int
    heads: int
    depth: int
    words: int


SMALL, LARGE = Size(160, 4, 12, 8192), Size(512, 8, 12, 24576)


class TorchBlock(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.features), nn.LayerNorm(size.features)
        self.query, self.key, self.value, self.out = (nn.Linear(size.features, size.features) for _ in range(4))
        self.up, self.down = nn.Linear(size.features, 4 * size.features), nn.Linear(4 * size.features, size.features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        q, k, v = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class TorchEncoder(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.words, size.features)
        self.blocks = nn.ModuleList([TorchBlock(size) for _ in range(size.depth)])
        self.norm = nn.LayerNorm(size.features)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if PASSES in os.environ:
            with open(os.environ[PASSES], "a") as file:
                file.write("F" if self.norm.weight.dtype == torch.float64 else "f")
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class FlaxBlock(nnx.Module):
    def __init__(self, size: Size, rngs: nnx.Rngs) -> None:
        self.heads = size.heads
        self.norm1, self.norm2 = (nnx.LayerNorm(size.features, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            nnx.Linear(size.features, size.features, rngs=rngs) for _ in range(4)
        )
        self.up = nnx.Linear(size.features, 4 * size.features, rngs=rngs)
        self.down = nnx.Linear(4 * size.features, size.features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = self.norm1(x)
        q, k, v = (part(normed).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
        x = x + self.out(jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores, -1), v).reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))


class FlaxEncoder(nnx.Module):
    def __init__(self, size: Size) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(size.words, size.features, rngs=rngs)
        self.blocks = nnx.List([FlaxBlock(size, rngs) for _ in range(size.depth)])
        self.norm = nnx.LayerNorm(size.features, epsilon=1e-5, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def pair(size: Size) -> Pair:
    return Pair(
        torch=lambda: TorchEncoder(size),
        flax=lambda: FlaxEncoder(size),
        inputs={"ids": Input("batch length", dtype="int", range=(0, size.words))},
        sizes={"batch": 2, "length": 128},
    )


small, large = pair(SMALL), pair(LARGE)


def both(one: Pair) -> None:
    """What a user would write to run both, without parity but for moving the weights."""
    from parity import transfer

    torch.manual_seed(0)
    reference, port = one.torch().eval(), one.flax()
    port.eval()
    transfer(reference, port)
    shape = one.inputs["ids"].shape(dict(one.sizes))  # type: ignore[arg-type]
    ids = torch.randint(int(one.inputs["ids"].range[1]), shape)  # type: ignore[index]
    output = reference(ids)
    cotangent = torch.randn(output.shape)
    output.backward(cotangent)

    @jax.jit
    def step(parameters: Any, rest: Any, ids: jax.Array, cotangent: jax.Array) -> Any:
        def called(parameters: Any) -> jax.Array:
            return nnx.merge(graph, parameters, rest)(ids)

        found, vjp = jax.vjp(called, parameters)
        return found, vjp(cotangent)

    graph, parameters, rest = nnx.split(port, nnx.Param, ...)
    jax.block_until_ready(step(parameters, rest, jnp.asarray(ids.numpy()), jnp.asarray(cotangent.numpy())))


@dataclasses.dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    memory: int
    passes: str

    def row(self, what: str) -> str:
        double, single = self.passes.count("F"), self.passes.count("f")
        return f"{what:<22} {self.wall:7.1f} {self.cpu:7.1f} {self.memory / 2**30:9.2f} {double:9} {single:9}"


def measured(command: list[str], environment: dict[str, str]) -> Cost:
    """The cost of a command that has to end well."""
    with tempfile.TemporaryDirectory() as folder:
        passes = Path(folder) / "passes"
        passes.touch()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(
            command, env=os.environ | environment | {PASSES: str(passes)}, stdout=subprocess.PIPE, text=True
        )
        peak, done = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watcher.start()
        said, _ = process.communicate()
        wall = time.perf_counter() - start
        done.set()
        watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
        cpu = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
        return Cost(wall, cpu, peak[0], passes.read_text())


def _watch(root: int, peak: list[int], done: threading.Event) -> None:
    while not done.wait(0.2):
        family = _family(root)
        peak[0] = max(peak[0], sum(map(_proportional, family)) + _handed_over(family))


def _family(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = [root], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def _proportional(pid: int) -> int:
    """Bytes, a page that n processes share counted 1/n in each, without those of files in memory."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_File:")))


def _handed_over(pids: list[int]) -> int:
    """Bytes of arrays in files in memory, looked at or not: all of each file that a process has mapped."""
    files: dict[str, int] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        for span, _, offset, _, inode, *name in map(str.split, lines):
            if name and name[0].startswith("/memfd:parity"):
                first, end = (int(place, 16) for place in span.split("-"))
                files[inode] = max(files.get(inode, 0), int(offset, 16) + end - first)
    return sum(files.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=("small", "large"), default="large")
    parser.add_argument("--skip", default="", help="of uncached, trace; without the first, what is kept is used")
    parser.add_argument("--spreads", help="the folder of kept spreads; a fresh one if left out")
    parser.add_argument("--both", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.both:
        both({"small": small, "large": large}[options.pair])
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PARITY_SPREADS_DIR": options.spreads or folder, "JAX_PLATFORMS": "cpu"}
        spec = f"{HERE}:{options.pair}"
        run = [sys.executable, "-m", "parity", "run", "--pair", spec, "--device", "cpu", "--timeout", "1200", "--quiet"]
        trace = [sys.executable, "-m", "parity", "trace", "--pair", spec, "--device", "cpu", "--timeout", "1200"]
        commands = {
            "both": [sys.executable, str(HERE), "--both", "--pair", options.pair],
            "uncached": run,
            "cached": run,
            "trace": trace,
        }
        print(f"{'':<22} {'wall s':>7} {'CPU s':>7} {'peak GiB':>9} {'float64':>9} {'float32':>9}")
        for what in [what for what in commands if what not in options.skip.split(",")]:
            print(measured(commands[what], environment).row(what), flush=True)


if __name__ == "__main__":
    main()
