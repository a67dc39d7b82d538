"""Wrong ports of the small models: one fault a row."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.parity.montecarlo.models import Other, Pieces


def ten_bits(x: torch.Tensor) -> torch.Tensor:
    """TF32: the mantissa of a matmul's inputs is rounded to 10 bits, in the backward pass too."""
    return (x.detach().view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32)


class _Tf32(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return F.linear(ten_bits(x), ten_bits(w))

    @staticmethod
    def backward(ctx, g):
        x, w = (ten_bits(t) for t in ctx.saved_tensors)
        g = ten_bits(g.contiguous())
        return g @ w, g.flatten(0, -2).T @ x.flatten(0, -2)


class Tf32(Pieces):
    def linear(self, x, w, b=None):
        y = _Tf32.apply(x, w)
        return y if b is None else y + b


class Epsilon(Pieces):
    eps = 1e-6


class TanhGelu(Pieces):
    def gelu(self, x):
        return F.gelu(x, approximate="tanh")


class SigmoidGelu(Pieces):
    def gelu(self, x):
        return x * torch.sigmoid(1.702 * x)


class UnbiasedVariance(Pieces):
    def layer_norm(self, x, w, b):
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + self.eps) * w + b

    def group_norm(self, x, w, b, groups):
        y = x.view(x.shape[0], groups, -1)
        y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, keepdim=True) + self.eps)
        return y.view_as(x) * w.view(-1, 1, 1) + b.view(-1, 1, 1)


class EpsilonOutside(Other):
    def layer_norm(self, x, w, b):
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / (x.var(-1, keepdim=True, correction=0).sqrt() + self.eps) * w + b


class Momentum(Pieces):
    """Flax's momentum is what is kept, torch's what is new."""

    def batch_norm(self, x, w, b, mean, var, train, momentum=0.1):
        return super().batch_norm(x, w, b, mean, var, train, 1 - momentum)


class BiasedRunningVariance(Other):
    def batch_norm(self, x, w, b, mean, var, train, momentum=0.1):
        y, new_mean, new_var = super().batch_norm(x, w, b, mean, var, train, momentum)
        n = x.numel() // x.shape[1]
        return y, new_mean, (new_var - (1 - momentum) * var) * ((n - 1) / n) + (1 - momentum) * var if train else var


class Unscaled(Pieces):
    def attention(self, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


class Causal(Pieces):
    def attention(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class SwappedGates(Pieces):
    def gru(self, x, p):
        def swap(w):
            r, z, n = w.chunk(3)
            return torch.cat([z, r, n])

        return super().gru(x, {name: swap(w) for name, w in p.items()})


class ResetAfter(Other):
    """The other GRU: the reset gate acts before the recurrent product."""

    def gru(self, x, p):
        h, outputs = x.new_zeros(x.shape[0], p["w_hh"].shape[1]), []
        (ir, iz, i_n), (hr, hz, hn) = p["w_ih"].chunk(3), p["w_hh"].chunk(3)
        (br, bz, bn), (cr, cz, cn) = p["b_ih"].chunk(3), p["b_hh"].chunk(3)
        for step in x.unbind(1):
            r = torch.sigmoid(F.linear(step, ir, br) + F.linear(h, hr, cr))
            z = torch.sigmoid(F.linear(step, iz, bz) + F.linear(h, hz, cz))
            n = torch.tanh(F.linear(step, i_n, bn) + F.linear(r * h, hn, cn))
            h = (1 - z) * n + z * h
            outputs.append(h)
        return torch.stack(outputs, 1)


class Residual(Pieces):
    residual = 1.001


class Shifted(Pieces):
    def embedding(self, ids, w):
        return super().embedding(ids, w) * w.shape[1] ** 0.01


class StoppedWeights(Pieces):
    """No gradient through the attention's weights."""

    def attention(self, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1).detach() @ v


class StoppedStatistics(Pieces):
    """No gradient through the variance."""

    def layer_norm(self, x, w, b):
        var = x.var(-1, keepdim=True, correction=0).detach()
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(var + self.eps) * w + b

    def batch_norm(self, x, w, b, mean, var, train, momentum=0.1):
        y, mean, var = super().batch_norm(x, w, b, mean, var, train, momentum)
        own = x.var((0, 2, 3), correction=0).detach() if train else var
        its = x.mean((0, 2, 3)) if train else mean
        y = (x - its.view(-1, 1, 1)) / torch.sqrt(own + self.eps).view(-1, 1, 1)
        return y * w.view(-1, 1, 1) + b.view(-1, 1, 1), mean, var


class ConvolutionFlipped(Pieces):
    """A convolution where torch correlates."""

    def conv(self, x, w, b):
        return super().conv(x, w.flip(-1, -2), b)


class EdgePadding(Pieces):
    def conv(self, x, w, b):
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), w, b)


def without(name):
    """A bias that was dropped: its value is zero; its gradient then agrees, and the rest tells."""
    return lambda arrays: arrays | {name: arrays[name] * 0}


def transposed(name):
    return lambda arrays: arrays | {name: arrays[name].swapaxes(0, 1).copy()}


def scaled(name, factor=1.001):
    return lambda arrays: arrays | {name: arrays[name] * factor}


def same(arrays):
    return arrays


# model, pieces, change to the parameters, structural (seen in bfloat16 too), name
FAULTS = [
    ("mlp", TanhGelu, same, False, "tanh GELU"),
    ("mlp", SigmoidGelu, same, False, "sigmoid GELU"),
    ("mlp", Epsilon, same, False, "epsilon 1e-6"),
    ("mlp", UnbiasedVariance, same, False, "unbiased variance"),
    ("mlp", EpsilonOutside, same, False, "epsilon outside of the root"),
    ("mlp", StoppedStatistics, same, True, "stopped statistics"),
    ("mlp", Tf32, same, False, "TF32"),
    ("mlp", Pieces, without("b1"), True, "dropped bias"),
    ("mlp", Pieces, transposed("w1"), True, "transposed weight"),
    ("mlp", Pieces, scaled("w0"), False, "a weight off by 0.1 %"),
    ("conv_group", Epsilon, same, False, "epsilon 1e-6"),
    ("conv_group", UnbiasedVariance, same, False, "unbiased variance"),
    ("conv_group", Residual, same, False, "residual off by 0.1 %"),
    ("conv_group", ConvolutionFlipped, same, True, "flipped kernel"),
    ("conv_group", EdgePadding, same, True, "padding"),
    ("conv_group", Pieces, transposed("w1"), True, "transposed weight"),
    ("conv_group", Pieces, without("b0"), False, "dropped bias"),
    ("conv_batch_train", Epsilon, same, False, "epsilon 1e-6"),
    ("conv_batch_train", Momentum, same, True, "momentum"),
    ("conv_batch_train", BiasedRunningVariance, same, False, "biased running variance"),
    ("conv_batch_train", StoppedStatistics, same, True, "stopped statistics"),
    ("conv_batch_train", TanhGelu, same, False, "tanh GELU"),
    ("conv_batch_eval", Epsilon, same, False, "epsilon 1e-6"),
    ("conv_batch_eval", Pieces, scaled("w1"), False, "a weight off by 0.1 %"),
    ("conv_batch_eval", Pieces, without("b0"), True, "dropped bias"),
    ("transformer_1", Epsilon, same, False, "epsilon 1e-6"),
    ("transformer_1", TanhGelu, same, False, "tanh GELU"),
    ("transformer_1", UnbiasedVariance, same, False, "unbiased variance"),
    ("transformer_1", Residual, same, False, "residual off by 0.1 %"),
    ("transformer_1", Tf32, same, False, "TF32"),
    ("transformer_1", Unscaled, same, True, "unscaled"),
    ("transformer_1", Causal, same, True, "causal"),
    ("transformer_1", StoppedWeights, same, True, "stopped weights"),
    ("transformer_1", Pieces, transposed("0.out"), True, "transposed weight"),
    ("transformer_4", Epsilon, same, False, "epsilon 1e-6"),
    ("transformer_4", TanhGelu, same, False, "tanh GELU"),
    ("transformer_4", Residual, same, False, "residual off by 0.1 %"),
    ("transformer_4", Tf32, same, False, "TF32"),
    ("transformer_4", StoppedWeights, same, True, "stopped weights"),
    ("transformer_4", Pieces, scaled("2.up"), False, "one layer of four off by 0.1 %"),
    ("transformer_4", Pieces, transposed("3.out"), True, "one layer of four transposed"),
    ("transformer_4", Pieces, without("1.bdown"), True, "one bias of many dropped"),
    ("gru", SwappedGates, same, True, "swapped gates"),
    ("gru", ResetAfter, same, True, "reset before the product"),
    ("gru", Pieces, without("b_hh"), True, "dropped bias"),
    ("gru", Pieces, scaled("w_hh", 1.0001), False, "a weight off by 0.01 %"),
    ("language", Epsilon, same, False, "epsilon 1e-6"),
    ("language", TanhGelu, same, False, "tanh GELU"),
    ("language", Shifted, same, False, "scaled embedding"),
    ("language", Tf32, same, False, "TF32"),
    ("language", Pieces, without("b"), True, "dropped bias"),
]
