"""The operators of torch that networks of images are made of, found by name and called on checked arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_OPERATORS = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool2d add addcdiv addcmul addmm adjoint affine_grid_generator alias all alpha_dropout amax amin
    aminmax __and__ any arange argmax argmin argsort as_strided asin asinh _assert_async _assert_scalar
    _assert_tensor_metadata atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and
    bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu
    channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im column_stack concat concatenate
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    copy cos cosh cumprod cumsum deg2rad detach diag diag_embed diagonal diff div divide dot dropout dsplit dstack
    einsum elu embedding empty empty_like empty_permuted eq equal erf erfc exp exp2 expand expand_as expm1 eye
    feature_alpha_dropout feature_dropout fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod frac
    full full_like gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm
    gt hardshrink hardsigmoid hardswish hardtanh hsplit hstack hypot im2col index index_add index_copy index_fill
    index_put index_select instance_norm isfinite isin isinf isnan kthvalue l1_loss layer_norm le leaky_relu lerp
    less less_equal lift_fresh lift_fresh_copy linalg_cross linalg_norm linalg_vector_norm linear linspace log log10
    log1p log2 log_sigmoid _log_softmax log_softmax logaddexp logical_and logical_not logical_or logical_xor logit
    logsumexp lt mH mT masked_fill masked_scatter matmul max max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d maximum mean median meshgrid min minimum mish mm moveaxis movedim mse_loss mul multiply mv nan_to_num
    narrow native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training native_group_norm
    native_layer_norm ne neg negative new_empty new_full new_ones new_zeros norm not_equal numpy_T one_hot ones
    ones_like __or__ outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod rad2deg ravel reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as rms_norm roll rot90 round rrelu rsqrt
    rsub scalar_tensor scaled_dot_product_attention scatter scatter_add select select_scatter selu sgn sigmoid sign
    silu sin sinc sinh slice slice_scatter _softmax softmax softplus softshrink softsign sort split split_with_sizes
    sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_constrain_range
    sym_constrain_range_for_size sym_numel sym_size sym_stride t take take_along_dim tan tanh tensor_split threshold
    tile to _to_copy topk transpose tril triu true_divide trunc type_as unbind unflatten unfold _unsafe_view
    unsqueeze upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d
    upsample_trilinear3d var var_mean view view_as view_copy vsplit vstack _weight_norm where __xor__ zero zeros
    zeros_like
    """.split()  # noqa: SIM905
)
"""Operators of ``aten`` that networks of images are made of, by name; in place too. What is not here is refused: among
torch's three thousand there are some that open files, and some that crash on arguments that torch does not check."""

_STRINGS = {
    "approximate",
    "rounding_mode",
    "mode",
    "padding",
    "padding_mode",
    "interpolation_mode",
    "indexing",
    "equation",
    "reduce",
    "ord",
    "msg",
    "assert_msg",
}
"""Arguments of operators that may be texts: choices."""

_KINDS: Mapping[str, type] = {
    "dtype": torch.dtype,
    "out_dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
    "device": torch.device,
}
"""Arguments that must be of torch's own types: an integer there would be taken for a C++ enumerator, unchecked."""

_ASSERTIONS = ("_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size")
"""Operators on sizes alone that say what holds."""


def called(target: str, named: list[tuple[str, Any]]) -> Any:
    """Result of ``torch.ops.aten.NAME.OVERLOAD`` on arguments with their names. Raises :class:`ValueError` for an
    operator or arguments that are none of torch's own."""
    operation = find_operator(target)
    if operation is None:
        raise ValueError("is not one of torch's own operators")
    known = {argument.name for argument in operation._schema.arguments}
    for name, value in named:
        if name not in known:
            raise ValueError("has an argument that torch does not know")
        if name in _KINDS and value is not None and not isinstance(value, _KINDS[name]):
            raise ValueError(f"{name} is no {_KINDS[name].__name__}")
    return operation(**dict(named))


def find_operator(target: str) -> torch._ops.OpOverload | None:
    """Operator ``torch.ops.aten.NAME.OVERLOAD`` that networks are made of; None for anything else."""
    parts = target.split(".")
    if len(parts) != 5 or parts[:3] != ["torch", "ops", "aten"] or not parts[4].isidentifier():
        return None
    if parts[3] not in _OPERATORS and parts[3].removesuffix("_") not in _OPERATORS:
        return None
    try:
        found = getattr(getattr(torch.ops.aten, parts[3]), parts[4])
    except (AttributeError, RuntimeError):
        return None
    if not isinstance(found, torch._ops.OpOverload):
        return None
    kinds = {str(argument.type) for argument in found._schema.arguments}
    texts = {argument.name for argument in found._schema.arguments if "str" in str(argument.type)}
    of_tensors = any("Tensor" in str(one.type) for one in (*found._schema.arguments, *found._schema.returns))
    # Overloads on numbers and lists alone are TorchScript's, and not all of them check their arguments.
    sound = of_tensors and texts <= _STRINGS and not kinds & {"Storage", "Stream"}
    return found if sound or parts[3] in _ASSERTIONS else None
