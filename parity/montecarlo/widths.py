"""How wide the rounding of each ATen op is: a table, one line to add an op.

u is the unit roundoff, x and y are an op's inputs and result. The kinds of rule:

    elementwise   u * |y|
    linear        u * sqrt(op(x²) + y²): of independent errors at the terms of a sum or contraction, and at its result
                  (Higham, Accuracy and Stability, 4.2 and 3.1, with the sums of squares in place of those of sizes)
    average       the same for a mean of n terms, which is op(x²)/n + y²
    moves         none of their own: the deviation goes where the numbers go
    chooses, picks, extreme    none of their own: the deviation of the number that was chosen
    discrete, step             none; what they decide is recorded
    exact         none: constants, random numbers, what the program says
    apart.TABLE   an op that uses an input twice inside, made of the above

Overloads and in-place forms have the rule of their op's name. A test runs every row against float32.
"""

from __future__ import annotations

from parity.montecarlo import apart
from parity.montecarlo.arithmetic import addition, elementwise, interpolation, linear, product, scaling
from parity.montecarlo.movement import (
    alias,
    cast,
    chooses,
    comparison,
    constant,
    discrete,
    divided,
    dropped,
    equality,
    exact,
    extreme,
    gathered_or_moved,
    moves,
    picks,
    read,
    relu,
    same,
    step,
    written,
)  # fmt: skip
from parity.montecarlo.noise import Rule


def _rows(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_rows(elementwise(), "sqrt rsqrt reciprocal exp expm1 log log1p tanh rsub leaky_relu"),
    **_rows(elementwise(), "sin cos tan asin acos atan sinh cosh asinh acosh atanh exp2 log2 log10 erfc atan2 hypot"),
    **_rows(elementwise(2), "erf pow erfinv addcmul addcdiv lerp logaddexp fmod remainder angle deg2rad rad2deg"),
    **_rows(addition, "add sub"),
    **_rows(scaling, "mul"),
    **_rows(divided, "div"),
    **_rows(linear(), "mm bmm mv dot vdot addmm baddbmm addbmm addmv convolution convolution_backward"),
    **_rows(linear(), "sum nansum cumsum trace index_add scatter_add embedding_dense_backward"),
    **_rows(linear(0), "max_pool2d_with_indices_backward max_pool3d_with_indices_backward avg_pool2d_backward"),
    **_rows(linear(0), "avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward"),
    **_rows(linear(0), "adaptive_max_pool2d_backward adaptive_max_pool3d_backward col2im unfold_backward"),
    **_rows(linear(0), "upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward"),
    **_rows(linear(0), "_upsample_nearest_exact2d_backward"),
    **_rows(linear(0), "reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward"),
    **_rows(linear(0), "replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward"),
    **_rows(linear(0, terms="mean"), "mean avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d"),
    **_rows(interpolation(False), "upsample_linear1d upsample_bilinear2d upsample_trilinear3d"),
    **_rows(interpolation(True), "upsample_linear1d_backward upsample_bilinear2d_backward"),
    **_rows(interpolation(True), "upsample_trilinear3d_backward"),
    **_rows(interpolation(True, slope=4.0), "upsample_bicubic2d_backward"),
    **_rows(product, "prod cumprod"),
    **_rows(moves(), "clone cat stack index_select gather index _unsafe_index flip roll repeat tril triu embedding"),
    **_rows(moves(), "slice_scatter select_scatter diagonal_scatter slice_backward select_backward diagonal_backward"),
    **_rows(moves(), "index_copy masked_select masked_scatter take im2col rot90 diag_embed"),
    **_rows(moves(), "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    **_rows(moves(), "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d"),
    **_rows(moves(), "reflection_pad1d reflection_pad2d reflection_pad3d split_with_sizes_copy unbind_copy"),
    **_rows(moves(), "replication_pad1d replication_pad2d replication_pad3d"),
    **_rows(moves(1, 2), "where"),
    **_rows(moves(2), "constant_pad_nd masked_fill"),
    **_rows(moves(3), "scatter index_fill"),
    **_rows(gathered_or_moved, "index_put _unsafe_index_put _index_put_impl_"),
    **_rows(same, "neg abs"),
    **_rows(cast, "_to_copy"),
    **_rows(written, "copy_ fill_"),
    **_rows(chooses, "clamp clamp_min clamp_max maximum minimum fmax fmin hardtanh threshold nan_to_num"),
    **_rows(extreme, "amax amin max min"),
    **_rows(picks, "sort topk kthvalue median nanmedian mode cummax cummin max_pool2d_with_indices"),
    **_rows(picks, "max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d"),
    **_rows(discrete, "argmax argmin isinf isnan equal nonzero bucketize searchsorted signbit"),
    **_rows(discrete, "logical_and logical_or logical_not"),
    **_rows(comparison, "lt le gt ge"),
    **_rows(equality, "eq ne"),
    **_rows(relu, "relu"),
    **_rows(step, "round floor ceil trunc sign sgn floor_divide heaviside"),
    **_rows(read, "_local_scalar_dense"),
    **_rows(constant, "full full_like new_full scalar_tensor lift_fresh linspace arange"),
    **_rows(exact, "zeros_like ones_like empty_like rand_like randn_like new_zeros new_ones new_empty zero_"),
    **_rows(exact, "bernoulli_ uniform_ normal_ random_ exponential_ set_ resize_ new_empty_strided"),
    **_rows(alias, "detach alias _unsafe_view _reshape_alias unsafe_split unsafe_split_with_sizes"),
    **_rows(alias, "transpose_ t_ squeeze_ unsqueeze_ as_strided_"),
    **_rows(dropped, "native_dropout"),
    **{name: apart.rule(function) for name, function in apart.TABLE.items()},
}
