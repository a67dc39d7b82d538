"""The torch side: NumPy arrays in, NumPy arrays out. The only file of parity that imports torch for a run."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from parity.compare import INFERENCE
from parity.dropout import SECOND
from parity.messages import Job, Options
from parity.spec import BadSpec, Interface

_device = torch.device("cpu")


def set_up(options: Options) -> None:
    """One thread (JAX compiles meanwhile), no TF32, and the device."""
    global _device
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if options.device == "gpu" and not torch.cuda.is_available():
        raise BadSpec("--device gpu: torch sees no GPU here (torch.cuda.is_available() is False)")
    _device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    if _device.type == "cuda":
        one = torch.ones(1, 1, device=_device, requires_grad=True)
        (one @ one).backward()  # or the first backward pass of a case warns


def use(device: torch.device) -> None:
    """Where `to_torch` puts tensors."""
    global _device
    _device = device


def environment() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),  # a class of torch's own, which would be imported where this is read
        "torch device": torch.cuda.get_device_name() if _device.type == "cuda" else "cpu",
        "torch float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch allow_tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "torch threads": str(torch.get_num_threads()),
    }


def refuses(target: Any, face: Interface, implementation: str) -> str | None:
    """Why this implementation cannot run here at all, or None."""
    try:
        trial(target, face, implementation=implementation)
    except Exception as error:
        return str(error)
    return None


def construct(target: Any, face: Interface, arguments: dict[str, Any]) -> Any:
    """The callable: a class is built with those of dropout, flash and causal that it accepts."""
    if not isinstance(target, type):
        return target
    return target(**face.defaults(arguments))


def trial(target: Any, face: Interface, heads: tuple[int, int] = (1, 1), **arguments: Any) -> np.ndarray:
    """A small call, 2 queries and 3 keys, to see what the target does."""
    rng = np.random.default_rng(0)
    shapes = ((1, heads[0], 2, 4), (1, heads[1], 3, 4), (1, heads[1], 3, 4))
    q, k, v = (torch.from_numpy(rng.standard_normal(shape, np.float32)).to(_device) for shape in shapes)
    module = construct(target, face, arguments)
    if isinstance(module, torch.nn.Module):
        module.eval()
    given = {name: to_torch(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    output = module(q, k, v, **{name: value for name, value in given.items() if name in face.call} | face.flags(False))
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor, got {type(output).__name__}")
    return to_numpy(output)


def run(target: Any, face: Interface, job: Job) -> dict[str, np.ndarray]:
    """Outputs and gradients of a case; for a dropout case those of a training step, and what dropout.py asks for."""
    case = job.case
    if case.kind != "dropout":
        return _run_once(target, face, job, train="dropout_mask" in job.arrays)
    arrays: dict[str, np.ndarray] = {}
    for suffix, seed, train in (
        ("", job.seed, True),
        ("_again", job.seed, True),
        ("_other", job.seed + 1, True),
        ("_eval", 0, False),
    ):
        torch.manual_seed(seed)
        result = _run_once(target, face, job, train=train)
        arrays |= result if suffix == "" else {"output" + suffix: result["output"]}
    return arrays


def _run_once(target: Any, face: Interface, job: Job, *, train: bool) -> dict[str, np.ndarray]:
    case = job.case
    tensors = {name: to_torch(array) for name, array in job.arrays.items()}
    inputs = [tensors[name].requires_grad_() for name in case.named("input")]
    options, keywords = face.arguments(case, job.implementation)
    if not train and not isinstance(target, type):
        keywords = face.without_dropout(keywords)
    module = construct(target, face, options)
    if isinstance(module, torch.nn.Module):
        module.train(train)
    keywords |= face.flags(train)
    keywords |= {name: tensors[name] for name in ("bias", "mask", "dropout_mask") if name in tensors}
    result = module(tensors["query"], tensors["key"], tensors["value"], **keywords)

    names = [name.removeprefix("cotangent_") for name in case.named("cotangent")]
    outputs = dict(zip(names, result if isinstance(result, tuple) else (result,), strict=False))
    for name, output in outputs.items():
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"expected {name} to be a torch.Tensor, got {type(output).__name__}")
    arrays = {name: to_numpy(output) for name, output in outputs.items()}
    # What cannot be differentiated is left out, and judged as missing; what gets no gradient has a gradient of zero.
    pairs = [(output, tensors["cotangent_" + name]) for name, output in outputs.items() if output.requires_grad]
    if any(output.shape != cotangent.shape for output, cotangent in pairs):
        return arrays
    grads: tuple[torch.Tensor | None, ...] = (None,) * len(inputs)
    if pairs:
        cotangents = [cotangent.to(output.dtype) for output, cotangent in pairs]
        grads = torch.autograd.grad([output for output, _ in pairs], inputs, cotangents, allow_unused=True)
    for name, tensor, grad in zip(case.named("input"), inputs, grads, strict=True):
        arrays["d" + name] = to_numpy(torch.zeros_like(tensor) if grad is None else grad)
    if not case.inference and case.kind != "dropout":
        return arrays
    # The same instance once more, without gradients: in evaluation what is shipped, in training other weights.
    with torch.no_grad():
        again = module(tensors["query"], tensors["key"], tensors["value"], **keywords)
    again = again[0] if isinstance(again, tuple) else again
    return arrays | {"output" + (SECOND if case.kind == "dropout" and train else INFERENCE): to_numpy(again)}


def to_torch(array: np.ndarray) -> torch.Tensor:
    """torch cannot read ml_dtypes' bfloat16: hand the bits over."""
    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(_device)
    return torch.from_numpy(array).to(_device)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
