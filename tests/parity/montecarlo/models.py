"""Small models, each written once over replaceable pieces: the reference's, honest other algorithms, and faults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F


class Pieces:
    """What a port may write otherwise; the reference's own are torch's."""

    eps = 1e-5
    residual = 1.0

    def linear(self, x, w, b=None):
        return F.linear(x, w, b)

    def gelu(self, x):
        return F.gelu(x)

    def layer_norm(self, x, w, b):
        return F.layer_norm(x, x.shape[-1:], w, b, self.eps)

    def attention(self, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v

    def conv(self, x, w, b):
        return F.conv2d(x, w, b, padding=1)

    def group_norm(self, x, w, b, groups):
        return F.group_norm(x, groups, w, b, self.eps)

    def batch_norm(self, x, w, b, mean, var, train, momentum=0.1):
        y = F.batch_norm(x, mean, var, w, b, train, momentum, self.eps)
        return y, mean, var

    def gru(self, x, p):
        gru = torch.nn.GRU(x.shape[-1], p["w_hh"].shape[1], batch_first=True).to(x.dtype)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        flat = dict(zip(names, (p["w_ih"], p["w_hh"], p["b_ih"], p["b_hh"]), strict=True))
        return torch.func.functional_call(gru, flat, (x,))[0]

    def embedding(self, ids, w):
        return F.embedding(ids, w)

    def loss(self, logits, ids):
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


class Other(Pieces):
    """Honest, in another algorithm wherever there is one."""

    def linear(self, x, w, b=None):  # two halves of the contraction, the later first
        half = w.shape[1] // 2
        y = x[..., half:] @ w[:, half:].T + torch.einsum("...i,oi->...o", x[..., :half], w[:, :half])
        return y if b is None else y + b

    def gelu(self, x):
        return 0.5 * x * torch.erfc(x * -math.sqrt(0.5))

    def layer_norm(self, x, w, b):  # Flax's fast variance
        mean = x.mean(-1, keepdim=True)
        var = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) * (w / torch.sqrt(var + self.eps)) + b

    def attention(self, q, k, v):  # blockwise, with a running maximum and sum
        top, total, out = q.new_full((*q.shape[:-1], 1), -torch.inf), 0.0, 0.0
        q = q * q.shape[-1] ** -0.5
        for start in range(0, k.shape[-2], 5):
            scores = q @ k[..., start : start + 5, :].transpose(-1, -2)
            new = torch.maximum(top, scores.amax(-1, keepdim=True).detach())
            weights, old = torch.exp(scores - new), torch.exp(top - new)
            total, out, top = (
                total * old + weights.sum(-1, keepdim=True),
                out * old + weights @ v[..., start : start + 5, :],
                new,
            )
        return out / total

    def conv(self, x, w, b):  # im2col
        n, _, height, width = x.shape
        columns = F.unfold(x, 3, padding=1)
        return (w.flatten(1) @ columns).view(n, -1, height, width) + b.view(-1, 1, 1)

    def group_norm(self, x, w, b, groups):
        y = x.view(x.shape[0], groups, -1)
        count, mean, m2 = 0, 0.0, 0.0
        for part in y.split(11, -1):  # Chan's and Welford's update, part by part
            n = part.shape[-1]
            its = part.mean(-1, keepdim=True)
            delta, total = its - mean, count + n
            m2 = m2 + ((part - its) ** 2).sum(-1, keepdim=True) + delta**2 * (count * n / total)
            mean, count = mean + delta * (n / total), total
        y = ((y - mean) / torch.sqrt(m2 / count + self.eps)).view_as(x)
        return y * w.view(-1, 1, 1) + b.view(-1, 1, 1)

    def batch_norm(self, x, w, b, mean, var, train, momentum=0.1):
        if train:
            n = x.numel() // x.shape[1]
            its = x.sum((0, 2, 3)) / n
            own = (x**2).sum((0, 2, 3)) / n - its**2
            scale = w / torch.sqrt(own + self.eps)
            y = x * scale.view(-1, 1, 1) + (b - its * scale).view(-1, 1, 1)
            return y, mean + momentum * (its.detach() - mean), var + momentum * (own.detach() * (n / (n - 1)) - var)
        scale = w / torch.sqrt(var + self.eps)
        return x * scale.view(-1, 1, 1) + (b - mean * scale).view(-1, 1, 1), mean, var

    def gru(self, x, p):
        h, outputs = x.new_zeros(x.shape[0], p["w_hh"].shape[1]), []
        (ir, iz, i_n), (hr, hz, hn) = p["w_ih"].chunk(3), p["w_hh"].chunk(3)
        (br, bz, bn), (cr, cz, cn) = p["b_ih"].chunk(3), p["b_hh"].chunk(3)
        for step in x.unbind(1):
            r = 0.5 * (1 + torch.tanh(0.5 * (torch.cat([step, h], 1) @ torch.cat([ir, hr], 1).T + (br + cr))))
            z = 0.5 * (1 + torch.tanh(0.5 * (torch.cat([step, h], 1) @ torch.cat([iz, hz], 1).T + (bz + cz))))
            n = torch.tanh(step @ i_n.T + bn + r * (h @ hn.T + cn))
            h = (1 - z) * n + z * h
            outputs.append(h)
        return torch.stack(outputs, 1)

    def embedding(self, ids, w):
        return F.one_hot(ids, w.shape[0]).to(w.dtype) @ w

    def loss(self, logits, ids):
        right = logits.gather(-1, ids[..., None])[..., 0]
        return (torch.logsumexp(logits, -1) - right).mean()


def mlp(o, p, x):
    for i in range(3):
        x = o.gelu(o.linear(x, p[f"w{i}"], p[f"b{i}"])) if i < 2 else o.linear(x, p["w2"], p["b2"])
    return {"output": o.layer_norm(x, p["scale"], p["bias"])}


def conv_group(o, p, x):
    y = F.silu(o.group_norm(o.conv(x, p["w0"], p["b0"]), p["scale"], p["bias"], 4))
    return {"output": x + o.residual * o.conv(y, p["w1"], p["b1"])}


def conv_batch(train):
    def forward(o, p, x):
        y, mean, var = o.batch_norm(
            o.conv(x, p["w0"], p["b0"]), p["scale"], p["bias"], p["mean"].clone(), p["var"].clone(), train
        )
        y = o.conv(F.max_pool2d(o.gelu(y), 2), p["w1"], p["b1"])
        return {"output": F.avg_pool2d(y, 2), "mean": mean, "var": var}

    return forward


def transformer(depth):
    def forward(o, p, x):
        heads = 4

        def split(y):
            return y.unflatten(-1, (heads, -1)).transpose(-2, -3)

        for i in range(depth):
            h = o.layer_norm(x, p[f"{i}.scale1"], p[f"{i}.bias1"])
            q, k, v = (split(y) for y in o.linear(h, p[f"{i}.qkv"]).chunk(3, -1))
            h = o.attention(q, k, v).transpose(-2, -3).flatten(-2)
            x = x + o.residual * o.linear(h, p[f"{i}.out"], p[f"{i}.bout"])
            h = o.gelu(o.linear(o.layer_norm(x, p[f"{i}.scale2"], p[f"{i}.bias2"]), p[f"{i}.up"], p[f"{i}.bup"]))
            x = x + o.linear(h, p[f"{i}.down"], p[f"{i}.bdown"])
        return {"output": x}

    return forward


def gru(o, p, x):
    return {"output": o.gru(x, p)}


def language(o, p, ids):
    h = o.layer_norm(o.embedding(ids, p["embedding"]), p["scale"], p["bias"])
    logits = o.linear(o.gelu(o.linear(h, p["w"], p["b"])), p["embedding"])
    return {"output": logits, "loss": o.loss(logits, ids.roll(1, -1))}


@dataclasses.dataclass(frozen=True)
class Model:
    forward: Callable
    shapes: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    vocabulary: int = 0
    buffers: tuple[str, ...] = ()

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        """Inputs and parameters, of sizes as they come from training: gains near one, weights of 1/sqrt(fan in)."""
        rng = np.random.default_rng(seed)
        made = {}
        for name, shape in self.shapes.items():
            z = rng.standard_normal(shape)
            made[name] = z * 0.1 if len(shape) == 1 else z / math.sqrt(math.prod(shape[1:]))
            if name.split(".")[-1].startswith(("scale", "var")):
                made[name] = np.abs(1 + made[name])
        made["x"] = rng.integers(0, self.vocabulary, self.x) if self.vocabulary else rng.standard_normal(self.x)
        return made


def _block(i: int, d: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{i}.scale1": (d,), f"{i}.bias1": (d,), f"{i}.qkv": (3 * d, d), f"{i}.out": (d, d), f"{i}.bout": (d,),
        f"{i}.scale2": (d,), f"{i}.bias2": (d,), f"{i}.up": (2 * d, d), f"{i}.bup": (2 * d,),
        f"{i}.down": (d, 2 * d), f"{i}.bdown": (d,),
    }  # fmt: skip


_CONV = {"w0": (8, 8, 3, 3), "b0": (8,), "scale": (8,), "bias": (8,), "w1": (8, 8, 3, 3), "b1": (8,)}
_BATCH = _CONV | {"mean": (8,), "var": (8,)}
MODELS = {
    "mlp": Model(
        mlp,
        {f"w{i}": (32, 32) for i in range(3)} | dict.fromkeys(("b0", "b1", "b2", "scale", "bias"), (32,)),
        (29, 32),
    ),
    "conv_group": Model(conv_group, _CONV, (2, 8, 7, 11)),
    "conv_batch_train": Model(conv_batch(True), _BATCH, (3, 8, 8, 12), buffers=("mean", "var")),
    "conv_batch_eval": Model(conv_batch(False), _BATCH, (3, 8, 8, 12), buffers=("mean", "var")),
    "transformer_1": Model(transformer(1), _block(0, 32), (2, 17, 32)),
    "transformer_4": Model(transformer(4), {k: v for i in range(4) for k, v in _block(i, 32).items()}, (2, 17, 32)),
    "gru": Model(gru, {"w_ih": (72, 24), "w_hh": (72, 24), "b_ih": (72,), "b_hh": (72,)}, (3, 13, 24)),
    "language": Model(
        language, {"embedding": (31, 32), "w": (32, 32), "scale": (32,), "bias": (32,), "b": (32,)}, (3, 19), 31
    ),
}  # fmt: skip


def results(model: Model, pieces: Pieces, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs, and the gradients of the input and all parameters, of cotangents that are the same in every dtype.

    Inputs and parameters are `arrays`, which hold numbers of the dtype that is judged.
    """
    p = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        p[name] = tensor.to(dtype).requires_grad_(name not in model.buffers) if tensor.is_floating_point() else tensor
    outputs = model.forward(pieces, {k: v for k, v in p.items() if k != "x"}, p["x"])
    pairs = []
    for i, y in enumerate(outputs.values()):
        if y.requires_grad:
            g = torch.from_numpy(np.random.default_rng(i).choice([-1.5, -1, -0.5, 0.5, 1, 1.5], tuple(y.shape))).to(
                dtype
            )
            pairs.append((y, g))
    inputs = {name: tensor for name, tensor in p.items() if tensor.requires_grad}
    grads = torch.autograd.grad([y for y, _ in pairs], list(inputs.values()), [g for _, g in pairs], allow_unused=True)
    named = {name: y.detach() for name, y in outputs.items()}
    for (name, tensor), grad in zip(inputs.items(), grads, strict=True):
        named["d" + name] = torch.zeros_like(tensor) if grad is None else grad
    return named


def rounded(arrays: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """What every side is given: the arrays as `dtype` can hold them."""
    return {
        name: torch.from_numpy(array).to(dtype).double().numpy() if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


def numpy(named: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in named.items()}
