"""A pair's cases: one for each of its modes, dtypes and sizes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

from parity.cases import Case, TensorSpec
from parity.pairs.pair import Pair
from parity.tensors import dtype_of, generator

# Both frameworks' own integers; JAX has no others unless it is told.
_DTYPES = {"int": "int32", "bool": "bool"}


@dataclasses.dataclass(frozen=True)
class PairCase(Case):
    """A case of a pair; `run_dtype` is that of the real inputs and of all weights, `mode` "eval" or "train"."""

    run_dtype: str = "float32"
    mode: str = "eval"

    @property
    def dtype(self) -> str:
        return self.run_dtype


def cases(spec: str, pair: Pair, dtypes: Sequence[str]) -> list[PairCase]:
    """All cases of the pair that a whole SPEC names, in the dtypes that were asked for, else in its own."""
    found = []
    for mode, dtype in itertools.product(pair.modes, dtypes or pair.dtypes or ("float32",)):
        for sizes in pair.runs:
            words = [label(spec), *(f"{axis}={size}" for axis, size in sizes.items())]
            words += [f"dtype={dtype}"] if dtype != "float32" else []
            words += [f"mode={mode}"] if mode != "eval" else []
            tensors = [
                TensorSpec(
                    name,
                    given.shape(sizes),
                    _DTYPES.get(given.dtype or "", dtype),
                    "input" if given.dtype is None and given.differentiate else "constant",
                    given.std,
                    given.range,
                )
                for name, given in pair.inputs.items()
            ]
            found.append(PairCase(",".join(words), tuple(tensors), {}, kind="pair", run_dtype=dtype, mode=mode))
    return found


def label(spec: str) -> str:
    """A SPEC as a case's name has it.

    >>> label("examples/parity_blocks.py:mlp")
    'parity_blocks.mlp'
    """
    place, _, name = spec.rpartition(":")
    stem = place.removesuffix(".py").replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{stem}.{name}")


def cotangent(seed: int, case: str, output: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What an output is multiplied with on the way back; each side makes it when it knows the output's shape."""
    return generator(seed, case, f"cotangent_{output}").standard_normal(shape).astype(dtype_of(dtype))
