"""A plan explained: each cascade's layers, strips, buffers, cost, limit, and the reason it ends."""

from __future__ import annotations

from typing import Any

from codesign.compile.scanline.plan.cascade import Plan
from codesign.compile.scanline.plan.cost import Cost
from codesign.compile.scanline.plan.plan import BufferPlan, Cascade, words_per_row


def explain(plan: Plan) -> list[dict[str, Any]]:
    """One record per cascade; bytes are bytes, ``cycles`` the planner's estimate, ``halo`` a share of the computing."""
    return [_cascade(plan, *parts) for parts in zip(plan.cascades, plan.costs, plan.reasons, strict=True)]


def _cascade(plan: Plan, cascade: Cascade, cost: Cost, reason: str) -> dict[str, Any]:
    spec = plan.spec
    widest = max(cascade.strips, key=lambda strip: sum(strip.width(buffer.tensor) for buffer in cascade.buffers))

    def used(buffer: BufferPlan) -> int:
        words = buffer.rows * buffer.groups * words_per_row(spec, widest.width(buffer.tensor))
        return words * spec.banks * spec.ci_lanes

    def role(buffer: BufferPlan) -> str:
        if buffer.loaded:
            return "loaded" if not buffer.conversion.unfold else f"loaded, {buffer.conversion.unfold} pixels a word"
        return "computed, stored" if buffer.freed_by_store else "computed"

    return {
        "layers": [one.layer.name for one in cascade.layers],
        "order": cascade.order.value,
        "rows_per_step": max((one.repeat for one in cascade.layers), default=1),
        "strips": [
            {
                "stored": dict(strip.stored),
                "computed": {name: (first, strip.columns[name][1]) for name, first in strip.computed.items()},
            }
            for strip in cascade.strips
        ],
        "halo_mode": "none" if len(cascade.strips) == 1 else "keep" if cascade.kept else "recompute",
        "kept_bytes": sum(
            plan.graph.tensors[kept.tensor].height * count * kept.channels
            for strip in cascade.strips
            for kept in cascade.kept
            if (count := strip.halos.get(kept.tensor))
        ),
        "halo": cost.halo,
        "buffers": [
            {
                "tensor": buffer.tensor,
                "role": role(buffer),
                "rows": buffer.rows,
                "width": widest.width(buffer.tensor),
                "channels": plan.graph.tensors[buffer.tensor].channels,
                "bytes": used(buffer),
            }
            for buffer in cascade.buffers
        ],
        "scratchpad_bytes": cascade.scratchpad_words * spec.banks * spec.ci_lanes,
        "scratchpad_limit": spec.scratchpad_bytes,
        "weight_words": cascade.weight_words,
        "weight_words_limit": spec.weight_words,
        "dram_bytes": cost.dram_bytes,
        "cycles": round(cost.cycles),
        "limited_by": cost.limit,
        "ends_because": reason,
    }
