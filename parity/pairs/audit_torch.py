"""The torch side's settings, in the words of the audit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from parity import tensors
from parity.pairs.audit import CANNOT_TELL, Audited
from parity.pairs.cases import cases
from parity.pairs.load import load
from parity.pairs.messages import PairJob, PairSide
from parity.pairs.torch_side import Made, environment
from parity.weights import torch_side as weights

_PRODUCTS = {"highest": "float32", "high": "TF32", "medium": "bfloat16"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def examine(side: PairSide) -> Audited:
    """What the module and the process are set to, once the user's file has been imported and the module made."""
    pair = load(side.pair)
    made = Made(pair, side)
    of_layers = {path: dict(_layer(child)) for path, child in made.module.named_modules()}
    seen = _Seen()
    functions = dict(_functions(made.module))
    try:
        case = cases(side.pair, pair, ())[0]
        with torch.no_grad(), seen:
            made.outputs(PairJob(0, case, tensors.make(case, side.seed)))
        functions |= {"GELU": ", ".join(sorted(seen.gelus)) or "none", "resizing": ", ".join(sorted(seen.resizing))}
    except Exception:  # it cannot be called; that is for a run to say
        functions["GELU"] = CANNOT_TELL
    return Audited(environment(), tuple(weights.describe(made.module)), _process(), of_layers, functions)


class _Seen(TorchFunctionMode):
    """What a call does that no weights and no attributes say, torch.nn.functional included."""

    def __init__(self) -> None:
        super().__init__()
        self.gelus: set[str] = set()
        self.resizing: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "gelu":
            self.gelus.add("tanh" if kwargs.get("approximate") == "tanh" else "exact")
        if func is nn.functional.interpolate:
            mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
            self.resizing.add(f"{mode}, align_corners={bool(kwargs.get('align_corners'))}")
        return func(*args, **kwargs)


def _process() -> dict[str, str]:
    convolutions = torch.backends.cudnn.allow_tf32
    return {
        "float32 products": _PRODUCTS[torch.get_float32_matmul_precision()],
        "float32 convolutions": "TF32" if convolutions else "float32",
        "default real dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "subnormal numbers": "kept" if float(torch.full((64,), 1e-39).mul(0.5)[0]) else "become zero",
        "16-bit accumulation": _accumulation(),
    }


def _accumulation() -> str:
    flags = torch.backends.cuda.matmul
    reduced = [
        name
        for name, allowed in (
            ("bfloat16", flags.allow_bf16_reduced_precision_reduction),
            ("float16", flags.allow_fp16_reduced_precision_reduction),
        )
        if (allowed[0] if isinstance(allowed, tuple) else allowed)
    ]
    return f"reduced for {', '.join(reduced)}" if reduced else "float32"


def _layer(module: nn.Module) -> Iterator[tuple[str, str]]:
    own: Any = module
    parameter = next(module.parameters(recurse=False), None)
    if parameter is not None:
        yield "computes in", str(parameter.dtype).removeprefix("torch.")
    if hasattr(own, "eps") and isinstance(own.eps, float | None):
        eps = torch.finfo(torch.float32).eps if own.eps is None else own.eps
        yield "epsilon", f"{eps:.6g}"
    if isinstance(module, _BATCH_NORMS):
        yield "momentum", "cumulative" if own.momentum is None else f"{own.momentum:.6g} of the batch"
        running = own.track_running_stats and not own.training
        yield "statistics in evaluation", "running" if running else "of the batch"
        yield "running variance", "unbiased"
    if isinstance(module, nn.LayerNorm):
        yield "features normalised", str(len(own.normalized_shape))
    if isinstance(module, nn.GroupNorm):
        yield "groups normalised", str(own.num_groups)
    if isinstance(module, _CONVOLUTIONS):
        yield "strides", str(tuple(own.stride))
        yield "dilation", str(tuple(own.dilation))
        yield "groups", str(own.groups)
        yield "padding", _padding(own)
        yield "padding mode", own.padding_mode


def _padding(module: Any) -> str:
    """Zeros before and after each axis; of a transposed convolution, around the input with its strides' gaps."""
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "valid":
        return str([(0, 0)] * len(reach))
    if module.padding == "same":
        return str([(r // 2, r - r // 2) for r in reach])
    if module.transposed:
        rows = zip(reach, module.padding, module.output_padding, strict=True)
        return str([(r - p, r - p + extra) for r, p, extra in rows])
    return str([(p, p) for p in module.padding])


def _functions(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Of what has no weights."""
    found = dict(module.named_modules())
    training = [path or "the module itself" for path, child in found.items() if child.training]
    yield "training", f"on in {', '.join(training)}" if training else "off"
    rates = [getattr(child, "p", getattr(child, "dropout", None)) for child in found.values()]
    known = sorted(float(rate) for rate in rates if isinstance(rate, float | int) and not isinstance(rate, bool))
    yield "dropout rates", ", ".join(f"{rate:g}" for rate in known if rate) or "none"
