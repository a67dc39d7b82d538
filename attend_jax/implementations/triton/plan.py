"""What is static about one call of the kernels: the problem, the sizes of the tiles, how products are computed."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax.problem import Problem

LOG2_E = math.log2(math.e)
MAX_HEAD_SIZE = 128
# Triton's products want at least 16 in each of their three sizes, and powers of two.
_MIN_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Of one kernel: queries and keys a tile, warps a program, stages of the software pipeline."""

    q: int
    k: int
    warps: int
    stages: int


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Of all kernels. `fast_exp2` takes the GPU's own instruction, which libdevice wraps against subnormals."""

    forward: Blocks
    dq: Blocks
    dkv: Blocks
    dbias: Blocks
    fast_exp2: bool = True


# (bytes of an element, larger head size at most, bytes of an element of the bias) -> tiles, as docs/gpu-triton-sweep.py
# found them fastest on an H200. Reasons: the accumulators have to stay in registers (256 KiB a processor, fp32), the
# pipelined tiles in shared memory (227 KiB), and a tile of the bias takes room in both; a float32 operand is there as
# three bfloat16 ones.
_SMALL, _NARROW = Blocks(64, 64, 4, 3), Blocks(64, 32, 4, 3)
TABLE = {
    (2, 64, 0): Tuning(Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(32, 128, 4, 3), _SMALL),
    (2, 64, 2): Tuning(_SMALL, _SMALL, _SMALL, _SMALL),
    (2, 64, 4): Tuning(_NARROW, _NARROW, _SMALL, _SMALL),
    (2, 128, 0): Tuning(Blocks(128, 64, 4, 2), Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2), Blocks(64, 64, 4, 2)),
    (4, 64, 0): Tuning(_NARROW, Blocks(64, 64, 4, 1), Blocks(64, 64, 4, 1), Blocks(64, 64, 4, 1)),
    (4, 128, 0): Tuning(_NARROW, Blocks(64, 64, 4, 1), Blocks(32, 32, 4, 2), Blocks(32, 32, 4, 2)),
}
# A query or a few, and many keys: bound by memory, and so by how much of it is under way.
_FEW = Blocks(16, 64, 2, 4)
FEW = Tuning(_FEW, _FEW, _FEW, _FEW)

# Tests run the kernels on a CPU, and a sweep takes other tiles than the table's, by setting these.
INTERPRET = False
TUNING: Tuning | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Static argument of every kernel. `interpret` runs them in plain JAX, for tests on a CPU."""

    problem: Problem
    tuning: Tuning
    interpret: bool

    @property
    def group(self) -> int:
        """Query heads to a key head (S7, S13)."""
        return self.problem.heads // self.problem.kv_heads

    @property
    def offset(self) -> int | None:
        """Row r may attend key c when c <= r + offset; None without a causal corner."""
        corner = self.problem.causal
        return None if corner is None else self.problem.kv_len - self.problem.q_len if corner == "lower_right" else 0

    @property
    def unseeing(self) -> int:
        """The first rows, which the causal corner alone leaves no key."""
        return 0 if self.offset is None else max(0, min(-self.offset, self.problem.q_len))

    @property
    def may_be_empty(self) -> bool:
        """Whether a row may be left with no key at all, and is then uniform (S4)."""
        return self.problem.mask_shape is not None or self.unseeing > 0

    @property
    def few(self) -> bool:
        """Whether all queries are in one block, so that what a block of keys adds to their gradient is made beside its
        own: keys and values are read once less. A bias' sums over rows are made in the other kernel."""
        return self.problem.q_len <= self.blocks("dkv").q and self.dbias != "rows"

    @property
    def dbias(self) -> str | None:
        """Where the bias' gradient is summed: over "rows" of tiles, over "columns" of tiles, or tile by tile."""
        shape = self.problem.bias_shape
        if shape is None:
            return None
        return "rows" if shape[3] == 1 else "columns" if shape[2] == 1 else "tiles"

    @property
    def fill(self) -> float:
        """The score of what is masked (S3), in units of log 2; any lower and it would not be finite.

        It matters in a row with no key only: elsewhere the weight is zero either way.
        """
        if not self.may_be_empty:
            return -math.inf
        lowest = float(jnp.finfo(self.problem.dtype).min) * LOG2_E
        return max(lowest, float(jnp.finfo(jnp.float32).min))

    @property
    def kept_factor(self) -> float:
        """What dropout multiplies the kept weights with; no infinity where it keeps none (S6)."""
        rate = self.problem.dropout_rate if self.problem.dropout is not None else 0.0
        return 0.0 if rate == 1 else 1 / (1 - rate)

    @property
    def parts(self) -> int:
        """How many 16-bit numbers hold one: products of 16 bits are exact, and the tensor cores' fastest."""
        return 1 if self.problem.is_16_bit else 3

    @property
    def dquery_dtype(self) -> Any:
        """What the query's gradient is handed on in: float32, and not yet scaled, when the scale is traced."""
        return jnp.float32 if self.problem.scale is None else self.problem.dtype

    def blocks(self, kernel: str) -> Blocks:
        """Of one kernel, no larger than the sequences ask for."""
        blocks: Blocks = getattr(self.tuning, kernel)
        q, k = min(blocks.q, padded(self.problem.q_len)), min(blocks.k, padded(self.problem.kv_len))
        if (q, k) == (blocks.q, blocks.k):
            return blocks
        # Short sequences have many programs with little in each: a warp takes a thousand scores.
        return Blocks(q, k, max(1, min(blocks.warps, q * k // 1024)), blocks.stages)


def padded(size: int) -> int:
    """As tiles have it: what lies beyond the real size is masked, and never read or written."""
    return max(_MIN_SIZE, 1 << (size - 1).bit_length())


def of(problem: Problem) -> Plan:
    return Plan(problem, TUNING or tuning(problem), INTERPRET)


def tuning(problem: Problem) -> Tuning:
    size = 64 if max(problem.head_dim, problem.value_dim) <= 64 else 128
    width, bias = problem.dtype.itemsize, 0 if problem.bias_shape is None else problem.bias_dtype.itemsize
    if problem.kv_len <= _SMALL.k:
        bias = min(bias, 2)  # one tile has all keys: nothing is pipelined, and there is room
    if (width, size, bias) == (2, 64, 0) and problem.q_len <= _FEW.q and problem.kv_len > _FEW.k:
        return FEW
    return TABLE.get((width, size, bias), TABLE[width, size, 0])


def refusal(problem: Problem) -> str | None:
    """Why the kernels cannot do this here, found out without tracing the problem."""
    if problem.dtype not in (jnp.float32, jnp.float16, jnp.bfloat16):
        return f"takes float16, bfloat16 and float32 only; got {problem.dtype}"
    if not all(isinstance(size, int) for size in (*problem.scores_shape, problem.kv_heads)):
        return "takes no symbolic sizes"
    if 0 in (*problem.scores_shape, problem.value_dim):
        return "takes no empty arrays"
    if max(problem.head_dim, problem.value_dim) > MAX_HEAD_SIZE:
        return f"takes head sizes of at most {MAX_HEAD_SIZE}; got {max(problem.head_dim, problem.value_dim)}"
    if not problem.is_16_bit and problem.precision not in (None, *_ACCURATE):
        return "multiplies float32 with float32's accuracy only; got a precision"
    if not problem.is_16_bit and getattr(jax.config, "jax_default_matmul_precision", None) is not None:
        return "multiplies float32 with float32's accuracy only; jax.default_matmul_precision is set"
    if _too_many(problem):
        return "takes no mask of 2**31 to 2**32 elements: Pallas indexes it in 32 bits"
    if jax.sharding.get_abstract_mesh().manual_axes:
        return "inside jax.shard_map Pallas takes no part in the checks of what varies (check_vma)"
    if INTERPRET:
        return None
    return _unavailable()


# What dispatch asks for on CUDA, and what the kernels do.
_ACCURATE = (jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6)


def _too_many(problem: Problem) -> bool:
    shapes = [shape for shape in (problem.mask_shape, problem.dropout == "mask" and problem.scores_shape) if shape]
    return any(2**31 <= math.prod(shape) <= 2**32 for shape in shapes)


def _unavailable() -> str | None:
    """Triton's products in TF32 and bfloat16 need compute capability 8.0; jax 0.11 says its Triton lowering will go."""
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return "there is no CUDA device"
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return "this JAX has no Triton lowering for Pallas any more"
    capability = float(device.compute_capability)
    return None if capability >= 8 else f"takes GPUs of compute capability 8.0 on; this one has {capability}"
