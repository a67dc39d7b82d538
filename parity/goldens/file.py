"""A golden as one safetensors file: arrays named CASE/PART/NAME, and a header of JSON in the metadata.

docs/goldens.md describes the format. What is read is checked in the order in which it can be wrong: is it safetensors,
is it a golden, of this version, as it was written, and does the header fit its arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.cases import Arrays, Case
from parity.errors import BadInput
from parity.goldens.golden import ATTENTION, INPUT, PAIR, TRUTH, WIDTH, Flags, Golden, Recording, Reference
from parity.goldens.plain import decode, encode
from parity.pairs.cases import PairCase, label
from parity.spec import Interface
from parity.tensors import dtype_of
from parity.weights import files
from parity.weights.layers import Layer

FORMAT, VERSION = "parity-golden", "1"
_WEIGHT = "weight/"
_REMEDY = "Record it anew with `parity record`, or take it from where it came from"


def write(path: str | Path, golden: Golden) -> None:
    """Write it whole or not at all. Raises BadInput where that cannot be done."""
    arrays: dict[str, np.ndarray] = {}
    for reference in golden.references:
        arrays |= {f"{label(reference.name)}/{_WEIGHT}{name}": array for name, array in reference.weights.items()}
        for recording in reference.cases:
            arrays |= {f"{recording.case.name}/{name}": array for name, array in recording.arrays.items()}
    header = json.dumps(_header(golden), allow_nan=False)
    files.write(path, arrays, {"format": FORMAT, "version": VERSION, "golden": header, "sha256": _sum(header, arrays)})


def read(path: str | Path) -> Golden:
    """Raises BadInput for a file that is missing, cut off, corrupt, of another kind, or of a later version."""
    arrays, metadata = files.contents(path)
    if not is_golden(metadata):
        some = ", ".join(sorted(arrays)[:3]) or "nothing"
        raise BadInput(
            f"{path}: expected a golden, as `parity record` writes it, got another safetensors file, which holds {some}"
            f"{' …' if len(arrays) > 3 else ''}. `parity compare` takes those"
        )
    version = metadata.get("version")
    if version != VERSION:
        raise BadInput(
            f"{path}: expected a golden of version {VERSION}, got version {version}. It is read by a later parity: "
            "update attend-jax, or record it anew with this one"
        )
    header = metadata.get("golden", "")
    if metadata.get("sha256") != _sum(header, arrays):
        raise BadInput(f"{path}: corrupt: expected what its checksum says, got something else. {_REMEDY}")
    try:
        return _golden(json.loads(header), arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: its header is not that of a golden of version {VERSION}: {error}. {_REMEDY}") from None


def is_golden(metadata: Mapping[str, str]) -> bool:
    """Does a file with this metadata call itself a golden?"""
    return metadata.get("format") == FORMAT


def _sum(header: str, arrays: Arrays) -> str:
    """Of everything in the file."""
    found = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _header(golden: Golden) -> dict[str, Any]:
    return {
        "kind": golden.kind,
        "seed": golden.seed,
        "provenance": dict(golden.provenance),
        "references": [
            {
                "name": reference.name,
                "environment": dict(reference.environment),
                "interface": encode(reference.interface),
                "layers": encode(reference.layers),
                "cases": [
                    {
                        "case": encode(recording.case),
                        "quantities": encode(recording.expected),
                        "raised": recording.raised,
                        "notes": list(recording.notes),
                    }
                    for recording in reference.cases
                ],
            }
            for reference in golden.references
        ],
    }


def _golden(header: Any, arrays: Arrays) -> Golden:
    kind = header["kind"]
    if kind not in (ATTENTION, PAIR):
        raise ValueError(f"expected the kind {ATTENTION} or {PAIR}, got {kind!r}")
    by_case: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        case, _, rest = name.partition("/")
        by_case.setdefault(case, {})[rest] = array
    references = tuple(_reference(kind, found, by_case) for found in header["references"])
    golden = Golden(
        kind, decode(int, header["seed"]), decode(Mapping[str, str], header["provenance"]), references  # type: ignore[type-abstract]
    )  # fmt: skip
    if len(golden.recordings) != sum(len(reference.cases) for reference in references):
        raise ValueError("two cases have one name")
    return golden


def _reference(kind: str, header: Any, arrays: Mapping[str, Arrays]) -> Reference:
    name = decode(str, header["name"])
    own = arrays.get(label(name), {}) if kind == PAIR else {}
    return Reference(
        name=name,
        environment=decode(Mapping[str, str], header["environment"]),  # type: ignore[type-abstract]
        cases=tuple(_recording(kind, found, arrays) for found in header["cases"]),
        interface=decode(Interface, header["interface"]) if kind == ATTENTION else None,
        layers=decode(tuple[Layer, ...], header["layers"]),
        weights={n.removeprefix(_WEIGHT): array for n, array in own.items() if n.startswith(_WEIGHT)},
    )


def _recording(kind: str, header: Any, arrays: Mapping[str, Arrays]) -> Recording:
    case: Case = decode(PairCase if kind == PAIR else Case, header["case"])
    own = {name: array for name, array in arrays.get(case.name, {}).items() if not name.startswith(_WEIGHT)}
    for tensor in case.tensors:
        found = own.get(INPUT + tensor.name)
        if found is None or found.shape != tensor.shape or found.dtype != dtype_of(tensor.dtype):
            came = "none" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(
                f"{case.name} needs an input {tensor.name}, {tensor.dtype} {tensor.shape}, there is {came}"
            )
    expected = decode(Mapping[str, Flags], header["quantities"])  # type: ignore[type-abstract]
    for name in expected:
        if TRUTH + name not in own or WIDTH + name not in own:
            raise ValueError(f"{case.name} has no truth or no width of {name}")
    raised = header["raised"]
    return dataclasses.replace(
        Recording(case, own, None if raised is None else decode(str, raised)),
        notes=decode(tuple[str, ...], header["notes"]), expected=expected,
    )  # fmt: skip
