"""Which standard deviation each element of each tensor has, for as long as its memory lives.

A deviation belongs to memory, not to a Python object: the storage of a tensor has a shadow, float32 numbers one for
one, and a tensor's deviation is the shadow seen through the tensor's own size, stride and offset. So views need no
rule, an in-place op through one view shows in all, and what autograd saved (another object, the same memory) is known.
"""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef

# Of a shadow that nobody can reach any more, before the dead ones are looked for.
SWEEP_BYTES = 32 * 2**20


class Deviations:
    """Standard deviations of tensors; None stands for an exact one. Complex tensors have one a component."""

    def __init__(self) -> None:
        self._shadows: dict[int, tuple[StorageWeakRef, torch.Tensor]] = {}
        self._since_sweep = 0

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The deviation of a tensor, in its shape: a view, to be read only."""
        entry = self._shadows.get(tensor.untyped_storage()._cdata)
        if entry is None:
            return None
        return self._through(entry[1], tensor)

    def put(self, tensor: torch.Tensor, deviation: torch.Tensor | None) -> None:
        """Set the deviation of what the tensor sees of its memory; None is zero."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return
        storage = tensor.untyped_storage()
        entry = self._shadows.get(storage._cdata)
        if deviation is None:
            if entry is not None and tensor.numel() * tensor.element_size() >= storage.nbytes():
                del self._shadows[storage._cdata]  # exact again, and known to be
            elif entry is not None:
                self._through(entry[1], collapsed(tensor)).zero_()
            return
        size = storage.nbytes() // tensor.element_size() * (2 if tensor.is_complex() else 1)
        if entry is None:
            shadow = _adopted(tensor, deviation, size)
            fresh = shadow is None
            shadow = torch.zeros(size, dtype=torch.float32, device=tensor.device) if shadow is None else shadow
            self._shadows[storage._cdata] = (StorageWeakRef(storage), shadow)
            self._since_sweep += 4 * size
            if self._since_sweep > SWEEP_BYTES:
                self._sweep()
            if not fresh:
                return
        else:
            shadow = entry[1]
        target = collapsed(tensor)
        self._through(shadow, target).copy_(collapsed_like(deviation.expand(tensor.shape), tensor))

    def _through(self, shadow: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_complex():
            shadow = torch.view_as_complex(shadow.view(-1, 2))
        return shadow.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def _sweep(self) -> None:
        """Let go of what nobody can reach. A weak reference keeps the address from being given to another storage."""
        self._since_sweep = 0
        for key in [key for key, (reference, _) in self._shadows.items() if reference.expired()]:
            del self._shadows[key]


def collapsed(tensor: torch.Tensor) -> torch.Tensor:
    """Without the repetitions of an expanded tensor, so that each number in memory is met once."""
    return collapsed_like(tensor, tensor)


def collapsed_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    for axis, (size, stride) in enumerate(zip(like.size(), like.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _adopted(tensor: torch.Tensor, deviation: torch.Tensor, size: int) -> torch.Tensor | None:
    """The deviation's own memory as the shadow, if it is laid out as the tensor's: most are, and nothing is copied."""
    if tensor.is_complex() or deviation.dtype != torch.float32 or deviation.shape != tensor.shape:
        return None
    if deviation.stride() != tensor.stride() or tensor.storage_offset() or deviation.storage_offset():
        return None
    if tensor.numel() != size or deviation.untyped_storage().nbytes() != 4 * size:
        return None
    return deviation.as_strided((size,), (1,))
