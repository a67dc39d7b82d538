"""The torch side: a module described as layers, its numbers as NumPy arrays, and back. Only this file imports torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import ml_dtypes
import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from parity.weights.layers import Found, Layer, Tensor, WeightsError, tie

# NumPy has no such dtypes of its own and torch cannot read ml_dtypes', so their bits travel as integers.
_BITS = {
    torch.bfloat16: (torch.int16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.int8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e5m2: (torch.int8, np.dtype(ml_dtypes.float8_e5m2)),
}
_FROM_NUMPY = {numpy: (bits, dtype) for dtype, (bits, numpy) in _BITS.items()}

Tensors = Mapping[str, Tensor]


def describe(module: nn.Module) -> tuple[Layer, ...]:
    """All parameters and buffers as layers, in order of definition.

    >>> [(layer.path, layer.kind) for layer in describe(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.LayerNorm(7)))]
    [('0', 'linear'), ('2', 'layer_norm')]
    """
    tensors = {path: Tensor(path, tuple(tensor.shape), _dtype(tensor)) for path, tensor in _all(module)}
    layers = [
        layer
        for path, child in module.named_modules(remove_duplicate=False)
        for layer in _layers(path, child, {
            name: tensors[_join(path, name)]
            for name in (*child._parameters, *child._buffers) if _join(path, name) in tensors
        })
    ]  # fmt: skip
    taken = {tensor.path for layer in layers for tensor in layer.tensors.values()}
    if missed := tensors.keys() - taken:
        raise WeightsError(f"expected every parameter in a layer, got none for {sorted(missed)}: a bug of parity's")
    keys: dict[object, int] = {}
    found = tuple(
        Found(path, tuple(tensor.shape), _dtype(tensor), keys.setdefault(_storage(tensor), len(keys)))
        for path, tensor in _all(module)
    )
    return tie(tuple(layers), found)


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """All parameters and buffers under all their names, tied ones as the same array. Copies, not views."""
    copies: dict[object, np.ndarray] = {}
    return {path: copies.setdefault(_storage(tensor), _to_numpy(tensor)) for path, tensor in _all(module)}


def load(module: nn.Module, given: Mapping[str, np.ndarray], keep: Collection[str] = ()) -> None:
    """Write arrays into the module, in place; what `keep` names stays as it is.

    Raises `WeightsError`, before anything is written, for a name, shape or dtype that is not the module's.
    """
    targets = dict(_all(module))
    if unknown := sorted(given.keys() - targets.keys()):
        raise WeightsError(f"expected names of the torch module, got {unknown}")
    if missing := sorted(targets.keys() - given.keys() - set(keep)):
        raise WeightsError(f"expected an array for every parameter and buffer, got none for {missing}")
    for path, array in given.items():
        expected = tuple(targets[path].shape), _dtype(targets[path])
        if (array.shape, array.dtype.name) != expected:
            raise WeightsError(
                f"`{path}`: expected shape {expected[0]} of {expected[1]}, got {array.shape} of {array.dtype.name}"
            )
    with torch.no_grad():
        for path, array in given.items():
            targets[path].copy_(_to_torch(array))


def _all(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for named in (module.named_parameters, module.named_buffers):
        for path, tensor in named(remove_duplicate=False):
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise WeightsError(f"`{path}` has no shape yet: run the torch module once on an example, then transfer")
            yield path, tensor


def _storage(tensor: torch.Tensor) -> object:
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()


def _dtype(tensor: torch.Tensor) -> str:
    if tensor.dtype in _BITS:
        return _BITS[tensor.dtype][1].name
    return str(tensor.dtype).removeprefix("torch.")


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous().clone()
    if tensor.dtype in _BITS:
        bits, dtype = _BITS[tensor.dtype]
        return tensor.view(bits).numpy().view(dtype)
    return tensor.numpy()


def _to_torch(array: np.ndarray) -> torch.Tensor:
    array = np.array(array, order="C")  # flips have negative strides, which torch refuses
    if array.dtype in _FROM_NUMPY:
        bits, dtype = _FROM_NUMPY[array.dtype]
        return torch.from_numpy(array.view(np.dtype(str(bits).removeprefix("torch.")))).view(dtype)
    return torch.from_numpy(array)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _layers(path: str, module: nn.Module, own: Tensors) -> Iterator[Layer]:
    """A module's own tensors, its submodules' not among them. What is of no known kind becomes single tensors."""
    rest = dict(own)
    for classes, reader in _READERS:
        if isinstance(module, classes):
            for layer in reader(path, module, own):
                yield layer
                for tensor in layer.tensors.values():
                    rest.pop(tensor.path.removeprefix(path).removeprefix("."), None)
            break
    for name, tensor in rest.items():
        if name in module._parameters:
            yield Layer(tensor.path, "parameter", {"value": tensor})
        else:
            yield Layer(tensor.path, "buffer", {"value": tensor}, optional=_why_optional(module, name, tensor))


def _why_optional(module: nn.Module, name: str, tensor: Tensor) -> str:
    if name == "num_batches_tracked":
        return "counts batches; Flax keeps no such count"
    if name in module._non_persistent_buffers_set:
        return "a non-persistent buffer: the constructor makes it, no checkpoint holds it"
    if not tensor.dtype.startswith(("float", "bfloat", "complex")):
        return f"a buffer of {tensor.dtype}: not trained"
    return ""


Reader = Callable[[str, nn.Module, Tensors], Iterator[Layer]]


def _plain(kind: str, **roles: str) -> Reader:
    """A layer whose roles are its own names, or those given."""

    places = {"weight": "weight", "bias": "bias"} | roles

    def read(path: str, _: nn.Module, own: Tensors) -> Iterator[Layer]:
        named = {role: own[name] for name, role in places.items() if name in own}
        if named:
            yield Layer(path, kind, named)

    return read


def _attention(path: str, module: nn.Module, own: Tensors) -> Iterator[Layer]:
    """nn.MultiheadAttention as three Linears, packed or not; its output projection is a submodule."""
    heads = {"heads": int(module.num_heads)}  # type: ignore[arg-type]
    for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
        if "in_proj_weight" in own:
            tensors = {"weight": own["in_proj_weight"].piece(index, 3, axis=0)}
        else:
            tensors = {"weight": own[f"{name}_weight"]}
        if "in_proj_bias" in own:
            tensors["bias"] = own["in_proj_bias"].piece(index, 3, axis=0)
        yield Layer(_join(path, name), "linear", tensors, heads)


def _recurrent(kind: str) -> Reader:
    """One layer for each level and direction."""

    def read(path: str, module: nn.Module, own: Tensors) -> Iterator[Layer]:
        several = int(module.num_layers) > 1 or bool(module.bidirectional)  # type: ignore[arg-type]
        for name in own:
            if not name.startswith("weight_ih_"):
                continue
            level = name.removeprefix("weight_ih_")
            roles = {"ih": f"weight_ih_{level}", "hh": f"weight_hh_{level}"}
            roles |= {"bias_ih": f"bias_ih_{level}", "bias_hh": f"bias_hh_{level}", "projection": f"weight_hr_{level}"}
            tensors = {role: own[name] for role, name in roles.items() if name in own}
            yield Layer(_join(path, level) if several else path, kind, tensors)

    return read


def _cell(kind: str) -> Reader:
    return _plain(kind, weight_ih="ih", weight_hh="hh", bias_ih="bias_ih", bias_hh="bias_hh")


_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_READERS: tuple[tuple[tuple[type[nn.Module], ...], Reader], ...] = (
    ((nn.Linear,), _plain("linear")),
    (_TRANSPOSED, _plain("conv_transpose")),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _plain("conv")),
    ((nn.Embedding, nn.EmbeddingBag), _plain("embedding")),
    ((nn.LayerNorm,), _plain("layer_norm")),
    ((nn.GroupNorm,), _plain("group_norm")),
    ((nn.RMSNorm,), _plain("rms_norm")),
    (_INSTANCE_NORM, _plain("instance_norm", running_mean="mean", running_var="var")),
    (_BATCH_NORM, _plain("batch_norm", running_mean="mean", running_var="var")),
    ((nn.PReLU,), _plain("prelu")),
    ((nn.MultiheadAttention,), _attention),
    ((nn.GRU,), _recurrent("gru")),
    ((nn.LSTM,), _recurrent("lstm")),
    ((nn.RNN,), _recurrent("rnn")),
    ((nn.GRUCell,), _cell("gru")),
    ((nn.LSTMCell,), _cell("lstm")),
    ((nn.RNNCell,), _cell("rnn")),
)
