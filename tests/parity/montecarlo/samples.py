"""One call of every op in the table of widths, on inputs that make its rounding show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

A = torch.ops.aten


class Draw:
    """Tensors of a dtype, the same numbers in each: float32 ones, or products of two, which float32 has to round."""

    def __init__(self, dtype: torch.dtype, exact: bool, seed: int = 0) -> None:
        self.dtype, self.exact, self.rng = dtype, exact, np.random.default_rng(seed)

    def _made(self, array: np.ndarray) -> torch.Tensor:
        first = torch.from_numpy(np.asarray(array, np.float32)).to(self.dtype)
        second = torch.from_numpy(self.rng.uniform(0.9, 1.1, first.shape).astype(np.float32)).to(self.dtype)
        return first if self.exact else first * second

    def n(self, *shape: int) -> torch.Tensor:
        """Normal."""
        return self._made(self.rng.standard_normal(shape))

    def p(self, *shape: int) -> torch.Tensor:
        """Positive."""
        return self._made(self.rng.uniform(0.5, 3, shape))

    def unit(self, *shape: int) -> torch.Tensor:
        """Inside of (-1, 1), by enough for its inverse functions."""
        return self._made(self.rng.uniform(-0.8, 0.8, shape))

    def i(self, high: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.integers(0, high, shape))

    def b(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.random(shape) < 0.6)

    def weights(self, *shape: int) -> torch.Tensor:
        """A softmax's result."""
        w = np.exp(self.rng.standard_normal(shape))
        return self._made(w / w.sum(-1, keepdims=True))


# What torch does not compute, or computes anew each time.
UNKNOWN = {
    "bernoulli_", "uniform_", "normal_", "random_", "exponential_", "rand_like", "randn_like", "native_dropout",
    "empty_like", "new_empty", "new_empty_strided", "resize_", "set_",
}  # fmt: skip
# What has no kernel on a CPU.
ELSEWHERE = {
    "_fused_rms_norm", "_fused_rms_norm_backward", "_thnn_fused_lstm_cell", "_thnn_fused_lstm_cell_backward_impl",
    "_thnn_fused_gru_cell", "_thnn_fused_gru_cell_backward",
}  # fmt: skip


def _unary(kind: str, names: str) -> dict[str, Callable]:
    return {name: (lambda d, name=name: getattr(A, name)(getattr(d, kind)(17, 23))) for name in names.split()}


def _stats(d: Draw, x: torch.Tensor, axes: tuple[int, ...]):
    """Mean and 1/deviation of float32, as a forward pass saves them."""
    mean = x.double().mean(axes)
    rstd = torch.rsqrt(x.double().var(axes, correction=0) + 1e-5)
    return (mean.float().to(d.dtype), rstd.float().to(d.dtype))


def _normal_backward(d: Draw, name: str):
    x, g = d.n(7, 32), d.n(7, 32)
    if name == "native_layer_norm_backward":
        mean, rstd = _stats(d, x, (1,))
        return A.native_layer_norm_backward(g, x, [32], mean[:, None], rstd[:, None], d.p(32), d.n(32), [True] * 3)
    x, g = d.n(3, 8, 5, 7), d.n(3, 8, 5, 7)
    if name == "native_group_norm_backward":
        mean, rstd = _stats(d, x.view(3, 4, -1), (2,))
        return A.native_group_norm_backward(g, x, mean, rstd, d.p(8), 3, 8, 35, 4, [True] * 3)
    mean, rstd = _stats(d, x, (0, 2, 3))
    return A.native_batch_norm_backward(g, x, d.p(8), d.n(8), d.p(8), mean, rstd, True, 1e-5, [True] * 3)


def _batch_norm(d: Draw, name: str):
    x, w, b, mean, var = d.n(3, 8, 5, 7), d.p(8), d.n(8), d.n(8), d.p(8)
    return (*getattr(A, name)(x, w, b, mean, var, True, 0.1, 1e-5), mean, var)


def _attention_backward(d: Draw):
    q, k, v, g = d.n(2, 3, 7, 8), d.n(2, 3, 11, 8), d.n(2, 3, 11, 8), d.n(2, 3, 7, 8)
    out, lse = A._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return A._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, out, lse, 0.0, False)


def _pool_backward(d: Draw, name: str):
    rank = 3 if "3d" in name else 2
    x = d.n(2, 3, *(6,) * rank)
    if "adaptive" in name:
        forward = getattr(A, name.removesuffix("_backward"))
        y, indices = forward(x, [2] * rank)
        return getattr(A, name)(d.n(*y.shape), x, indices)
    y, indices = getattr(A, f"max_pool{rank}d_with_indices")(x, [3] * rank, [1] * rank)
    args = [3] * rank, [1] * rank, [0] * rank, [1] * rank, False
    return getattr(A, name)(d.n(*y.shape), x, *args, indices)


def _written(d: Draw, function: Callable) -> torch.Tensor:
    x = d.n(5, 7)
    function(x)
    return x


def _resized(d: Draw, backward: bool, name: str):
    rank = int(name.split("d")[0][-1])
    small, large = [5] * rank, [10] * rank
    x = d.n(2, 3, *(large if backward else small))
    extra = (True,) if any(word in name for word in ("linear", "cubic")) else ()
    args = (large, [2, 3, *small]) if backward else (large,)
    return getattr(A, name)(x, *args, *extra)


def _rows(names: str, call: Callable) -> dict[str, Callable]:
    return {name: (lambda d, name=name: call(d, name)) for name in names.split()}


SAMPLES: dict[str, Callable[[Draw], object]] = {
    **_unary("p", "sqrt rsqrt reciprocal log log1p log2 log10"),
    **_unary("n", "exp expm1 tanh sin cos tan atan sinh cosh asinh exp2 erf erfc leaky_relu elu sigmoid silu gelu"),
    **_unary("n", "deg2rad rad2deg angle abs neg relu hardtanh clone"),
    **_unary("unit", "asin acos atanh erfinv"),
    **_unary("n", "isinf isnan signbit argmax argmin nonzero logical_not round floor ceil trunc sign sgn"),
    **_unary("n", "zeros_like ones_like"),
    **_unary("n", "tril triu"),
    **_rows("amax amin", lambda d, name: getattr(A, name)(d.n(17, 23), [1])),
    **_rows("max min", lambda d, name: (getattr(A, name)(d.n(17, 23)), *getattr(A, name)(d.n(17, 23), 1))),
    **_rows(
        "sum nansum mean", lambda d, name: (getattr(A, name)(d.n(37, 70), [1]), getattr(A, name)(d.p(70, 37), [0]))
    ),
    "trace": lambda d: torch.stack([A.trace(d.n(40, 40)) for _ in range(40)]),
    "acosh": lambda d: A.acosh(d.p(17, 23) + 1),
    "rsub": lambda d: A.rsub(d.n(17, 23), d.n(17, 23)),
    "atan2": lambda d: A.atan2(d.n(17, 23), d.n(17, 23)),
    "hypot": lambda d: A.hypot(d.n(17, 23), d.n(17, 23)),
    "pow": lambda d: A.pow(d.p(17, 23), d.n(17, 23)),
    "addcmul": lambda d: A.addcmul(d.n(17, 23), d.n(17, 23), d.n(17, 23), value=0.5),
    "addcdiv": lambda d: A.addcdiv(d.n(17, 23), d.n(17, 23), d.p(17, 23), value=0.5),
    "lerp": lambda d: A.lerp(d.n(17, 23), d.n(17, 23), d.p(17, 23)),
    "logaddexp": lambda d: A.logaddexp(d.n(17, 23), d.n(17, 23)),
    "fmod": lambda d: A.fmod(d.p(17, 23) * 4, 0.75),
    "remainder": lambda d: A.remainder(d.n(17, 23), 0.75),
    "add": lambda d: (A.add(d.n(17, 23), d.n(23)), A.add(d.n(17, 23), d.n(17, 23), alpha=0.3)),
    "sub": lambda d: A.sub(d.n(17, 23), d.n(17, 1)),
    "mul": lambda d: (A.mul(d.n(17, 23), d.n(23)), A.mul(d.n(17, 23), 0.3)),
    "div": lambda d: (A.div(d.n(17, 23), d.p(23)), A.div(d.n(17, 23), 3.0)),
    "mm": lambda d: (A.mm(d.n(11, 64), d.n(64, 13)), A.mm(d.p(11, 64), d.p(64, 13))),
    "bmm": lambda d: A.bmm(d.n(3, 11, 40), d.n(3, 40, 13)),
    "mv": lambda d: A.mv(d.n(31, 40), d.n(40)),
    "dot": lambda d: torch.stack([A.dot(d.n(40), d.n(40)) for _ in range(40)]),
    "vdot": lambda d: torch.stack([A.vdot(d.n(40), d.n(40)) for _ in range(40)]),
    "addmm": lambda d: A.addmm(d.n(13), d.n(11, 40), d.n(40, 13), alpha=0.5),
    "baddbmm": lambda d: A.baddbmm(d.n(3, 11, 13), d.n(3, 11, 40), d.n(3, 40, 13), beta=0.5),
    "addbmm": lambda d: A.addbmm(d.n(11, 13), d.n(3, 11, 40), d.n(3, 40, 13)),
    "addmv": lambda d: A.addmv(d.n(31), d.n(31, 40), d.n(40)),
    "convolution": lambda d: (
        A.convolution(d.n(2, 6, 9, 7), d.n(8, 3, 3, 3), d.n(8), [2, 1], [1, 1], [1, 1], False, [0, 0], 2),
        A.convolution(d.n(2, 6, 9), d.n(6, 8, 3), d.n(8), [2], [1], [1], True, [1], 1),
    ),
    "convolution_backward": lambda d: A.convolution_backward(
        d.n(2, 8, 9, 7), d.n(2, 6, 9, 7), d.n(8, 6, 3, 3), [8], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True] * 3
    ),
    "cumsum": lambda d: A.cumsum(d.n(17, 23), 1),
    "index_add": lambda d: A.index_add(d.n(5, 7), 0, d.i(5, 60), d.n(60, 7), alpha=0.5),
    "scatter_add": lambda d: A.scatter_add(d.n(5, 7), 0, d.i(5, 60, 7), d.n(60, 7)),
    "embedding_dense_backward": lambda d: A.embedding_dense_backward(d.n(4, 30, 8), d.i(7, 4, 30), 7, -1, False),
    **_rows("max_pool2d_with_indices_backward max_pool3d_with_indices_backward", _pool_backward),
    **_rows("adaptive_max_pool2d_backward adaptive_max_pool3d_backward", _pool_backward),
    "avg_pool2d_backward": lambda d: A.avg_pool2d_backward(
        d.n(2, 3, 4, 4), d.n(2, 3, 6, 6), [3, 3], [1, 1], [0, 0], False, True, None
    ),
    "avg_pool3d_backward": lambda d: A.avg_pool3d_backward(
        d.n(2, 3, 4, 4, 4), d.n(2, 3, 6, 6, 6), [3] * 3, [1] * 3, [0] * 3, False, True, None
    ),
    "_adaptive_avg_pool2d_backward": lambda d: A._adaptive_avg_pool2d_backward(d.n(2, 3, 3, 2), d.n(2, 3, 7, 7)),
    "_adaptive_avg_pool3d_backward": lambda d: A._adaptive_avg_pool3d_backward(d.n(2, 3, 3, 2, 2), d.n(2, 3, 7, 7, 5)),
    "col2im": lambda d: A.col2im(d.n(2, 27, 16), [6, 6], [3, 3], [1, 1], [0, 0], [1, 1]),
    "unfold_backward": lambda d: A.unfold_backward(d.n(3, 9, 4), [3, 12], 1, 4, 1),
    **_rows("upsample_bilinear2d upsample_linear1d upsample_trilinear3d", lambda d, name: _resized(d, False, name)),
    **_rows("upsample_nearest1d upsample_nearest2d upsample_nearest3d", lambda d, name: _resized(d, False, name)),
    **_rows("_upsample_nearest_exact2d", lambda d, name: _resized(d, False, name)),
    **_rows("upsample_bilinear2d_backward upsample_linear1d_backward", lambda d, name: _resized(d, True, name)),
    **_rows("upsample_trilinear3d_backward upsample_nearest1d_backward", lambda d, name: _resized(d, True, name)),
    **_rows("upsample_nearest2d_backward upsample_nearest3d_backward", lambda d, name: _resized(d, True, name)),
    **_rows("upsample_bicubic2d_backward", lambda d, name: _resized(d, True, name)),
    **_rows("_upsample_nearest_exact2d_backward", lambda d, name: _resized(d, True, name)),
    **_rows(
        "reflection_pad1d replication_pad1d reflection_pad2d replication_pad2d reflection_pad3d replication_pad3d",
        lambda d, name: getattr(A, name)(d.n(2, 3, *(5,) * int(name[-2])), [2, 1] * int(name[-2])),
    ),
    **_rows(
        "reflection_pad1d_backward replication_pad1d_backward reflection_pad2d_backward replication_pad2d_backward "
        "reflection_pad3d_backward replication_pad3d_backward",
        lambda d, name: getattr(A, name)(
            d.n(2, 3, *(8,) * int(name[-11])), d.n(2, 3, *(5,) * int(name[-11])), [2, 1] * int(name[-11])
        ),
    ),
    "avg_pool2d": lambda d: A.avg_pool2d(d.n(2, 3, 9, 9), [3, 3]),
    "avg_pool3d": lambda d: A.avg_pool3d(d.n(2, 3, 6, 6, 6), [2] * 3),
    "_adaptive_avg_pool2d": lambda d: A._adaptive_avg_pool2d(d.n(2, 3, 7, 9), [3, 4]),
    "_adaptive_avg_pool3d": lambda d: A._adaptive_avg_pool3d(d.n(2, 3, 7, 9, 5), [3, 4, 2]),
    "prod": lambda d: A.prod(d.p(29, 9), 1),
    "cumprod": lambda d: A.cumprod(d.p(29, 9), 1),
    "cat": lambda d: A.cat([d.n(3, 7), torch.zeros(2, 7, dtype=d.dtype), d.n(5, 7)]),
    "stack": lambda d: A.stack([d.n(3, 7), d.n(3, 7)], 1),
    "index_select": lambda d: A.index_select(d.n(9, 7), 0, d.i(9, 13)),
    "gather": lambda d: A.gather(d.n(9, 7), 0, d.i(9, 13, 7)),
    "index": lambda d: A.index(d.n(9, 7), [d.i(9, 13)]),
    "_unsafe_index": lambda d: A._unsafe_index(d.n(9, 7), [None, d.i(7, 13)]),
    "flip": lambda d: A.flip(d.n(9, 7), [0, 1]),
    "roll": lambda d: A.roll(d.n(9, 7), [2], [0]),
    "repeat": lambda d: A.repeat(d.n(9, 7), [2, 3]),
    "embedding": lambda d: A.embedding(d.n(9, 7), d.i(9, 4, 5)),
    "where": lambda d: (A.where(d.b(9, 7), d.n(9, 7), d.n(7)), A.where(d.b(9, 7), d.n(9, 7), 2.5)),
    "scatter": lambda d: (
        A.scatter(d.n(9, 7), 0, d.i(9, 1, 7), d.n(1, 7)),
        A.scatter(d.n(9, 7), 0, d.i(9, 1, 7), 0.3),
    ),
    "index_fill": lambda d: A.index_fill(d.n(9, 7), 0, d.i(9, 3), 0.3),
    "slice_scatter": lambda d: A.slice_scatter(d.n(9, 7), d.n(3, 7), 0, 2, 5),
    "select_scatter": lambda d: A.select_scatter(d.n(9, 7), d.n(7), 0, 2),
    "diagonal_scatter": lambda d: A.diagonal_scatter(d.n(7, 7), d.n(7)),
    "slice_backward": lambda d: A.slice_backward(d.n(3, 7), [9, 7], 0, 2, 5, 1),
    "select_backward": lambda d: A.select_backward(d.n(7), [9, 7], 0, 2),
    "diagonal_backward": lambda d: A.diagonal_backward(d.n(7), [7, 7], 0, 0, 1),
    "index_copy": lambda d: A.index_copy(d.n(9, 7), 0, torch.tensor([3, 1]), d.n(2, 7)),
    "masked_select": lambda d: A.masked_select(d.n(9, 7), d.b(9, 7)),
    "masked_scatter": lambda d: A.masked_scatter(d.n(9, 7), d.b(9, 7), d.n(9, 7)),
    "pixel_shuffle": lambda d: A.pixel_shuffle(d.n(2, 8, 3, 5), 2),
    "pixel_unshuffle": lambda d: A.pixel_unshuffle(d.n(2, 2, 6, 10), 2),
    "channel_shuffle": lambda d: A.channel_shuffle(d.n(2, 8, 3, 5), 2),
    "native_channel_shuffle": lambda d: A.native_channel_shuffle(d.n(2, 8, 3, 5), 2),
    "im2col": lambda d: A.im2col(d.n(2, 3, 6, 6), [3, 3], [1, 1], [1, 1], [1, 1]),
    "rot90": lambda d: A.rot90(d.n(9, 7)),
    "diag_embed": lambda d: A.diag_embed(d.n(9, 7)),
    "take": lambda d: A.take(d.n(9, 7), d.i(63, 5)),
    "split_with_sizes_copy": lambda d: A.split_with_sizes_copy(d.n(9, 7), [4, 5]),
    "unbind_copy": lambda d: A.unbind_copy(d.n(9, 7)),
    "constant_pad_nd": lambda d: A.constant_pad_nd(d.n(9, 7), [1, 2], 0.3),
    "masked_fill": lambda d: (
        A.masked_fill(d.n(9, 7), d.b(9, 7), 0.3),
        A.masked_fill(d.n(9, 7), d.b(9, 7), torch.tensor(2.0, dtype=d.dtype)),
    ),
    "index_put": lambda d: (
        A.index_put(d.n(9, 7), [torch.tensor([3, 1])], d.n(2, 7)),
        A.index_put(d.n(9, 7), [d.i(9, 50)], d.n(50, 7), True),
    ),
    "_unsafe_index_put": lambda d: A._unsafe_index_put(d.n(9, 7), [d.i(9, 50)], d.n(50, 7), True),
    "_index_put_impl_": lambda d: _written(d, lambda x: A._index_put_impl_(x, [d.i(5, 50)], d.n(50, 7), True, True)),
    "_to_copy": lambda d: A._to_copy(d.n(9, 7), dtype=d.dtype),
    "copy_": lambda d: _written(d, lambda x: x.copy_(d.n(7))),
    "fill_": lambda d: _written(d, lambda x: A.fill_(x, d.n())),
    "zero_": lambda d: _written(d, lambda x: x.zero_()),
    "clamp": lambda d: (A.clamp(d.n(9, 7), -0.5, 0.75), A.clamp(d.n(9, 7), d.n(7), d.n(7) + 1)),
    "clamp_min": lambda d: A.clamp_min(d.n(9, 7), -0.5),
    "clamp_max": lambda d: A.clamp_max(d.n(9, 7), 0.5),
    "maximum": lambda d: A.maximum(d.n(9, 7), d.n(9, 7)),
    "minimum": lambda d: A.minimum(d.n(9, 7), d.n(7)),
    "fmax": lambda d: A.fmax(d.n(9, 7), d.n(9, 7)),
    "fmin": lambda d: A.fmin(d.n(9, 7), d.n(9, 7)),
    "nan_to_num": lambda d: A.nan_to_num(torch.where(d.b(9, 7), d.n(9, 7), -torch.inf), neginf=0.5),
    "threshold": lambda d: A.threshold(d.n(9, 7), 0.0, 0.0),
    "sort": lambda d: (*A.sort(d.n(9, 7), 0, True), *A.sort(d.n(9, 7), stable=True)),
    "topk": lambda d: A.topk(d.n(9, 17), 3),
    "kthvalue": lambda d: A.kthvalue(d.n(9, 17), 3),
    "median": lambda d: A.median(d.n(9, 17), 1),
    "nanmedian": lambda d: A.nanmedian(d.n(9, 17), 1, True),
    "mode": lambda d: A.mode(d.n(9, 17), 1),
    "cummax": lambda d: A.cummax(d.n(9, 17), 1),
    "cummin": lambda d: A.cummin(d.n(9, 17), 0),
    "max_pool2d_with_indices": lambda d: A.max_pool2d_with_indices(d.n(2, 3, 6, 6), [3, 3], [1, 1], [1, 1]),
    "max_pool3d_with_indices": lambda d: A.max_pool3d_with_indices(d.n(2, 3, 6, 6, 6), [3] * 3),
    "adaptive_max_pool2d": lambda d: A.adaptive_max_pool2d(d.n(2, 3, 6, 6), [2, 3]),
    "adaptive_max_pool3d": lambda d: A.adaptive_max_pool3d(d.n(2, 3, 6, 6, 6), [2, 3, 2]),
    **_rows("eq ne lt le gt ge logical_and logical_or", lambda d, name: getattr(A, name)(d.n(9, 7), d.n(9, 7))),
    "bucketize": lambda d: A.bucketize(d.n(9, 7), torch.linspace(-2, 2, 9, dtype=d.dtype)),
    "searchsorted": lambda d: A.searchsorted(torch.linspace(-2, 2, 9, dtype=d.dtype), d.n(9, 7)),
    "equal": lambda d: d.i(2, 3) + A.equal(d.n(9), d.n(9)),
    "floor_divide": lambda d: A.floor_divide(d.n(9, 7), 0.3),
    "heaviside": lambda d: A.heaviside(d.n(9, 7), torch.ones((), dtype=d.dtype)),
    "full": lambda d: A.full([3], 0.3, dtype=d.dtype),
    "scalar_tensor": lambda d: A.scalar_tensor(0.3, dtype=d.dtype),
    "lift_fresh": lambda d: torch.tensor([0.3, 0.5, 1e-5], dtype=d.dtype),
    "linspace": lambda d: A.linspace(0, 1, 11, dtype=d.dtype),
    "arange": lambda d: A.arange(0, 1, 0.1, dtype=d.dtype),
    "_local_scalar_dense": lambda d: torch.stack([d.n(7) * d.n(3)[0].item() for _ in range(7)]),
    "full_like": lambda d: A.full_like(d.n(9, 7), 0.5),
    "new_zeros": lambda d: A.new_zeros(d.n(9, 7), [3]),
    "new_ones": lambda d: A.new_ones(d.n(9, 7), [3]),
    "new_full": lambda d: A.new_full(d.n(9, 7), [3], 0.3),
    "detach": lambda d: A.detach(d.n(9, 7)),
    "alias": lambda d: A.alias(d.n(9, 7)),
    "_unsafe_view": lambda d: A._unsafe_view(d.n(9, 7), [7, 9]),
    "_reshape_alias": lambda d: A._reshape_alias(d.n(9, 7), [7, 9], [9, 1]),
    "unsafe_split": lambda d: A.unsafe_split(d.n(9, 7), 3),
    "unsafe_split_with_sizes": lambda d: A.unsafe_split_with_sizes(d.n(9, 7), [4, 5]),
    **_rows("transpose_", lambda d, name: _written(d, lambda x: getattr(A, name)(x, 0, 1))),
    "t_": lambda d: _written(d, lambda x: A.t_(x)),
    "squeeze_": lambda d: _written(d, lambda x: A.squeeze_(x)),
    "unsqueeze_": lambda d: _written(d, lambda x: A.unsqueeze_(x, 0)),
    "as_strided_": lambda d: _written(d, lambda x: A.as_strided_(x, [3, 3], [1, 2])),
    "_softmax": lambda d: A._softmax(d.n(17, 23) * 4, -1, False),
    "_log_softmax": lambda d: A._log_softmax(d.n(17, 23) * 4, -1, False),
    "_softmax_backward_data": lambda d: A._softmax_backward_data(d.n(17, 23), d.weights(17, 23), -1, d.dtype),
    "_log_softmax_backward_data": lambda d: A._log_softmax_backward_data(
        d.n(17, 23), d.weights(17, 23).log(), -1, d.dtype
    ),
    "logsumexp": lambda d: A.logsumexp(d.n(37, 23), [-1]),
    "sigmoid_backward": lambda d: A.sigmoid_backward(d.n(17, 23), d.unit(17, 23).abs()),
    "tanh_backward": lambda d: A.tanh_backward(d.n(17, 23), d.unit(17, 23)),
    "silu_backward": lambda d: A.silu_backward(d.n(17, 23), d.n(17, 23)),
    "gelu_backward": lambda d: (
        A.gelu_backward(d.n(17, 23), d.n(17, 23)),
        A.gelu_backward(d.n(17, 23), d.n(17, 23), approximate="tanh"),
    ),
    "threshold_backward": lambda d: A.threshold_backward(d.n(17, 23), d.n(17, 23), 0.0),
    "var": lambda d: A.var(d.n(17, 23), [1], correction=1),
    "std": lambda d: A.std(d.n(17, 23) + 1, [0], correction=0),
    "var_mean": lambda d: A.var_mean(d.n(17, 23), [1], correction=1, keepdim=True),
    "std_mean": lambda d: A.std_mean(d.n(17, 23), [1], correction=1),
    "linalg_vector_norm": lambda d: (
        A.linalg_vector_norm(d.n(37, 23), 2, [1]),
        A.linalg_vector_norm(d.n(37, 23), 1, [1]),
        A.linalg_vector_norm(d.n(37, 23), 3, [1]),
    ),
    "native_layer_norm": lambda d: A.native_layer_norm(d.n(17, 32) + 1, [32], d.p(32), d.n(32), 1e-5),
    "native_group_norm": lambda d: A.native_group_norm(d.n(3, 8, 5, 7), d.p(8), d.n(8), 3, 8, 35, 4, 1e-5),
    **_rows("native_batch_norm _native_batch_norm_legit", _batch_norm),
    **_rows("native_layer_norm_backward", _normal_backward),
    **_rows("native_group_norm_backward native_batch_norm_backward", _normal_backward),
    "_scaled_dot_product_flash_attention_for_cpu": lambda d: A._scaled_dot_product_flash_attention_for_cpu(
        d.n(2, 3, 7, 8), d.n(2, 3, 11, 8), d.n(2, 3, 11, 8), 0.0, True
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
