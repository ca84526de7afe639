"""Makes a module buildable by TVM: operators that Relax has but cannot generate code for, in terms of others."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


def runnable(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` with composite functions inlined, and ``nn.pixel_shuffle`` spelled as reshape, permute and reshape.

    Relax defines the latter but TVM 0.27 lacks its code: ``relax.build`` fails on it.
    """
    module = relax.transform.InlinePrivateFunctions()(module)
    rewriter = _Rewriter(module)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            rewriter.builder_.update_func(name, rewriter.visit_expr(function))
    return rewriter.builder_.get()


@mutator
class _Rewriter(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: relax.Call) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.nn.pixel_shuffle":
            return call
        factor = int(call.attrs.upscale_factor)
        x = call.args[0]
        batch, channels, height, width = (int(extent) for extent in x.ty.shape.values)
        channels //= factor * factor
        split = self.builder_.emit(relax.op.reshape(x, (batch, channels, factor, factor, height, width)))
        turned = self.builder_.emit(relax.op.permute_dims(split, (0, 1, 4, 2, 5, 3)))
        return relax.op.reshape(turned, (batch, channels, height * factor, width * factor))
