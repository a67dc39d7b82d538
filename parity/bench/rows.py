"""The rows of the bench: tables of attention cases, one line to add a row.

A row's name is a case's name, so `parity run --case NAME` proves right what `parity bench --row NAME` times.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

import numpy as np

from parity.attention import Attention
from parity.errors import BadInput
from parity.suites import BIG_WORKLOAD, WORKLOAD

FORWARD, BOTH = "forward", "forward+backward"
MODES = (FORWARD, BOTH)
# Forward has two products, backward five: dv, dp, dq, dk, and the scores once more.
_PRODUCTS = {FORWARD: 1.0, BOTH: 3.5}
# Up to this length a sequence is tiny: no block of a fused kernel is full.
TINY = 64


@dataclasses.dataclass(frozen=True)
class Row:
    """A problem to be timed. `kind`: "bench" rows are what goals of speed are about, "sweep" rows differ in length only
    and are for the plot, "memory" rows are compiled for what they would take and not timed."""

    attention: Attention
    kind: str = "bench"

    @property
    def name(self) -> str:
        return self.attention.name

    @property
    def dtype(self) -> str:
        return self.attention.dtype

    @property
    def timed(self) -> bool:
        return self.kind != "memory"

    @property
    def tiny(self) -> bool:
        return max(self.attention.q_len, self.attention.kv_len) <= TINY

    @property
    def has_bias(self) -> bool:
        return self.attention.bias is not None

    @property
    def scores(self) -> int:
        """How many there are, allowed or not."""
        a = self.attention
        return a.batch * a.heads * a.q_len * a.kv_len

    def flops(self, mode: str) -> float:
        """Multiplications and additions of the products; under causal only those of allowed pairs."""
        a = self.attention
        pairs = a.batch * a.heads * int(allowed_per_query(a).sum())
        return _PRODUCTS[mode] * 2.0 * pairs * (a.head_dim + a.value_dim)


def allowed_per_query(attention: Attention) -> np.ndarray:
    """How many keys each query may attend."""
    rows = np.arange(attention.q_len)
    if attention.corner is None:
        return np.full(attention.q_len, attention.kv_len)
    offset = attention.kv_len - attention.q_len if attention.corner == "lower_right" else 0
    return np.clip(rows + 1 + offset, 0, attention.kv_len)


def _case(
    label: str, batch: int, heads: int, q_len: int, head_dim: int, *, kv_len: int | None = None, dtype: str = "float32",
    causal: bool = False, bias: str | None = None,
) -> Attention:  # fmt: skip
    return Attention(
        rule=label, batch=batch, heads=heads, kv_heads=heads, q_len=q_len, kv_len=kv_len or q_len, head_dim=head_dim,
        value_dim=head_dim, dtype=dtype, causal=causal, bias=bias,
    )  # fmt: skip


def _real(names: Sequence[str], dtype: str = "float32") -> list[Attention]:
    """Shapes of the workload; with 16-bit inputs the learned bias stays float32."""
    shapes = WORKLOAD | BIG_WORKLOAD
    bias_dtype = None if dtype == "float32" else "float32"
    return [dataclasses.replace(shapes[name], rule=name, dtype=dtype, bias_dtype=bias_dtype) for name in names]


CPU = (
    _case("square", 1, 8, 512, 64),
    _case("square", 1, 8, 1024, 64),
    _case("square", 1, 8, 1024, 64, causal=True),
    _case("square", 2, 8, 2048, 64, causal=True),
    _case("square", 1, 8, 4096, 64),
    _case("square", 1, 8, 4096, 64, causal=True),
    _case("many", 64, 8, 256, 64),
    _case("tiny", 256, 8, 16, 32),
    *_real(("space", "time", "space-video", "time-video", "middle", "middle-time", "space-256")),
)
_BF16 = "bfloat16"
GPU = (
    _case("square", 4, 16, 4096, 128, dtype=_BF16),
    _case("square", 4, 16, 4096, 128, dtype=_BF16, causal=True),
    _case("square", 4, 16, 4096, 64, dtype=_BF16),
    _case("square", 4, 16, 4096, 64, dtype=_BF16, causal=True),
    _case("bias", 4, 16, 2048, 64, dtype=_BF16, bias="hij"),
    _case("bias", 4, 16, 2048, 64, dtype=_BF16, bias="bhij"),
    _case("bias", 4, 16, 2048, 64, dtype=_BF16, bias="hij", causal=True),
    _case("wide", 4, 16, 1024, 64, kv_len=4096, dtype=_BF16, causal=True),
    _case("space-big", 64, 8, 1024, 64, dtype=_BF16),
    _case("tiny", 8192, 8, 16, 64, dtype=_BF16),
    _case("tiny", 8192, 8, 16, 64, dtype=_BF16, bias="hij"),
    _case("one-query", 16, 16, 1, 64, kv_len=8192, dtype=_BF16),
    _case("long", 1, 16, 16384, 64, dtype=_BF16, causal=True),
    *_real(("space-video", "time-256", "middle"), _BF16),
    _case("square", 4, 16, 2048, 64),
    _case("square", 4, 16, 2048, 64, causal=True),
    _case("long", 1, 16, 8192, 64),
)
BENCH = {"cpu": CPU, "gpu": GPU}
SWEEP = {
    "cpu": tuple(_case("sweep", 1, 8, n, 64) for n in (256, 512, 1024, 2048, 4096, 8192, 16384)),
    "gpu": tuple(_case("sweep", 4, 16, n, 64, dtype=_BF16) for n in (512, 1024, 2048, 4096, 8192, 16384, 32768)),
}
MEMORY = {"cpu": tuple(_case("memory", 1, 8, n, 64) for n in (2048, 4096)), "gpu": ()}


def choose(device: str, glob: str | None, dtypes: Sequence[str], *, sweep: bool) -> list[Row]:
    """The rows that were asked for; a whole name may stand for a row that is in no table.

    Raises:
      BadInput: nothing is left, or the name is no row.
    """
    rows = [Row(case) for case in BENCH[device]]
    rows += [Row(case, "memory") for case in MEMORY[device]]
    if sweep or (glob is not None and glob.startswith("sweep")):
        rows += [Row(case, "sweep") for case in SWEEP[device]]
    if glob is not None:
        found = [row for row in rows if fnmatch.fnmatchcase(row.name, glob)]
        rows = found or [_made_up(glob, [row.name for row in rows])]
    kept = [row for row in rows if not dtypes or row.dtype in dtypes]
    if not kept:
        raise BadInput(f"no row that was asked for is in {', '.join(dtypes)}; on {device} there are those in "
                       f"{', '.join(sorted({row.dtype for row in rows}))}")  # fmt: skip
    return kept


# What a row may say; no peer has the rest.
_SAYS = {"rule", "batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim", "value_dim", "dtype", "causal", "bias"}


def _made_up(name: str, known: Sequence[str]) -> Row:
    if "=" not in name or any(character in name for character in "*?["):
        raise BadInput(f"--row {name!r} matches no row; there are {' '.join(known)}")
    try:
        attention = Attention.parse(name)
    except ValueError as error:
        raise BadInput(f"--row {name!r} matches no row, and {error}") from None
    for field in dataclasses.fields(Attention):
        if field.name not in _SAYS | {"bias_dtype", "std"} and getattr(attention, field.name) != field.default:
            raise BadInput(f"--row {name!r}: a row may have sizes, dtype, causal and a bias, but not {field.name}")
    if attention.kv_heads != attention.heads or min(Row(attention).scores, attention.value_dim) == 0:
        raise BadInput(f"--row {name!r}: a row has as many key heads as query heads (h = kv), and no size of 0")
    return Row(attention)
