"""The precision audit: what of the two sides' settings differs, and what each would do to the result. No framework.

A side's worker writes its settings in the same words as the other (`audit_torch`, `audit_flax`); layers are aligned by
the map of their weights. What cannot be told, and what the bound allows anyway, is a note and does not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from parity.weights import Layer, PlanError, Rule, WeightMap, plan

CANNOT_TELL = "cannot be told"


@dataclasses.dataclass(frozen=True)
class Audited:
    """One side: `settings` of the process, those of each layer by its path, and those of functions, which no weights
    align: what is found of them anywhere in the module."""

    environment: Mapping[str, str]
    layers: tuple[Layer, ...]
    settings: Mapping[str, str]
    of_layers: Mapping[str, Mapping[str, str]]
    functions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting that is not the same on both sides. `counts`: it changes results beyond what the bound allows."""

    setting: str
    torch: str
    flax: str
    effect: str
    counts: bool = True


# What a difference would do, by setting.
_TF32 = "on a GPU: TF32 keeps 10 bits of 23, errors near 1e-3, hundreds of times the bound of float32"
EFFECTS = {
    "float32 products": _TF32,
    "float32 convolutions": _TF32,
    "default real dtype": "new tensors, and Python's numbers with them, are of another precision",
    "parameters": "parameters are rounded on one side only",
    "computes in": "activations are rounded, or promoted, on one side; outputs can have another dtype",
    "epsilon": "another output wherever the variance is small; 1e-6 for 1e-5 is 13 times the bound of float32",
    "momentum": "running statistics move at another speed (flax's momentum is 1 - torch's): wrong after every step",
    "statistics in evaluation": "one side normalises with the batch it sees, the other with what it has seen",
    "strides": "another output shape, or other positions",
    "padding": "shifted edges: wrong in a frame around the output, or everywhere after a stride",
    "dilation": "the kernel reads other positions",
    "groups": "the kernel mixes other channels",
    "padding mode": "other numbers beyond the edge",
    "kernel flipped": "transposed kernels are applied the other way round",
    "groups normalised": "the mean and the variance are taken over other channels",
    "features normalised": "the mean and the variance are taken over other elements",
    "training": "dropout and batch statistics are on where they should be off",
    "dropout rates": "nothing in evaluation; another regularisation in training",
    "GELU": "exact (erf) and tanh GELU differ by up to 5e-4: 360 times the bound of float32",
    "resizing": "other positions are sampled: jax.image.resize has half-pixel centres (align_corners=False), its "
    "nearest is torch's nearest-exact, and it smooths when it makes smaller",
}  # fmt: skip
# Beside the name of a setting, what is no fault: (setting, torch's value or None for any, effect).
NOTES = {
    "subnormal numbers": "numbers below 1.2e-38 become zero on one side; the bound allows for it",
    "16-bit accumulation": "on a GPU torch may add up parts of a 16-bit product in 16 bits, JAX adds in float32: some "
    "units in the last place, which the bound of 16 bits allows for as a rule",
    "variance": "a mean far from zero cancels: use_fast_variance=False takes the variance as torch does",
    "running variance": "torch keeps the unbiased variance, n / (n - 1) times flax's; in training say so with "
    'ignore=("buffer(*.running_var)",)',
    "computes in, in 16 bits": "fixed, whatever the run's dtype; let the function that makes the module take dtype",
    "precision": "this layer's products have their own precision, on a GPU or TPU",
}  # fmt: skip


def audit(torch: Audited, flax: Audited, rules: tuple[tuple[str, ...], ...] = ()) -> list[Row]:
    """Everything that differs, what counts first."""
    rows = list(_settings("", torch.settings, flax.settings))
    try:
        found = plan(torch.layers, flax.layers, [Rule(*rule) for rule in rules])
    except PlanError as error:
        words = f"layers are not compared: {error.problems[0].message}"
        rows.append(Row("weights", f"{len(torch.layers)} layers", f"{len(flax.layers)} layers", words))
    else:
        rows += _parameters(found)
        for ours, theirs in aligned(found, torch.layers, flax.layers):
            rows += _settings(ours, torch.of_layers.get(ours, {}), flax.of_layers.get(theirs, {}))
    rows += _settings("", torch.functions, flax.functions)
    return sorted(_joined(rows), key=lambda row: not row.counts)


def _joined(rows: Iterable[Row]) -> list[Row]:
    """What is said of several layers in the same words, once."""
    places: dict[Row, list[str]] = {}
    for row in rows:
        setting, _, layer = row.setting.partition(" of `")
        places.setdefault(dataclasses.replace(row, setting=setting), []).append(layer.removesuffix("`"))
    return [
        dataclasses.replace(row, setting=row.setting + (f" of {', '.join(layers)}" if layers[0] else ""))
        for row, layers in places.items()
    ]


def aligned(found: WeightMap, torch: tuple[Layer, ...], flax: tuple[Layer, ...]) -> list[tuple[str, str]]:
    """Paths of layers that hold the same weights, in order."""
    ours, theirs = ({t.path: layer.path for layer in side for t in layer.tensors.values()} for side in (torch, flax))
    pairs = [(ours[t.path], theirs[f.path]) for entry in found.entries for t in entry.torch for f in entry.flax]
    return list(dict.fromkeys(pairs))


def _settings(layer: str, torch: Mapping[str, str], flax: Mapping[str, str]) -> Iterator[Row]:
    for name in dict.fromkeys([*torch, *flax]):
        mine, theirs = torch.get(name, ""), flax.get(name, "")
        where = f"{name} of `{layer}`" if layer else name
        if name in NOTES:
            if mine != theirs:
                yield Row(where, mine or "-", theirs or "-", NOTES[name], counts=False)
        elif mine and theirs and mine != theirs:
            yield Row(where, mine, theirs, EFFECTS[name], counts=CANNOT_TELL not in (mine, theirs))


def _parameters(found: WeightMap) -> Iterator[Row]:
    for entry in found.entries:
        mine, theirs = (", ".join(dict.fromkeys(t.dtype for t in side)) for side in (entry.torch, entry.flax))
        if mine and theirs and mine != theirs:
            yield Row(f"dtype of `{entry.torch[0].shown}`", mine, theirs, EFFECTS["parameters"])
