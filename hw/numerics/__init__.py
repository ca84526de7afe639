"""The one set of fixed-point rules. Compiler, golden model and RTL compute exactly this; nothing restates it.

Every function takes and returns numpy integers and is exact: ``int64`` holds every intermediate, because an int32 psum
times a 32-bit multiplier needs at most 63 bits and a sign.
"""

from codesign.hw.numerics.byte_planes import (
    byte_planes,
    from_byte_planes,
    psum_reach,
    weight_planes,
)
from codesign.hw.numerics.fixed_point import (
    MAX_SHIFT,
    MULTIPLIER_BITS,
    AddRule,
    MultiplyRule,
    add_requantised,
    multiply_requantised,
    requantise,
    requantise_wide,
)
from codesign.hw.numerics.integers import (
    INT8_MAX,
    INT8_MIN,
    INT16_MAX,
    INT16_MIN,
    INT32_MAX,
    INT32_MIN,
    AnyInts,
    IntArray,
    ceil_div,
    round_shift,
    round_up,
)
from codesign.hw.numerics.sampling import (
    FLOW_FRACTION_BITS,
    SAMPLE_UNITS,
    STEP_BITS,
    corner_places,
    corner_step,
    interpolate,
    sample_places,
    window_places,
)
from codesign.hw.numerics.scales import (
    add_parameters,
    bias_integers,
    clip_bounds,
    product_parameters,
    quantise_multiplier,
    quantise_pair,
    requantise_parameters,
)
from codesign.hw.numerics.tables import (
    TABLE_FUNCTIONS,
    apply_table,
    evaluate_steps,
    function_table,
)

__all__ = [
    "FLOW_FRACTION_BITS",
    "INT8_MAX",
    "INT8_MIN",
    "INT16_MAX",
    "INT16_MIN",
    "INT32_MAX",
    "INT32_MIN",
    "MAX_SHIFT",
    "MULTIPLIER_BITS",
    "SAMPLE_UNITS",
    "STEP_BITS",
    "TABLE_FUNCTIONS",
    "AddRule",
    "AnyInts",
    "IntArray",
    "MultiplyRule",
    "add_parameters",
    "add_requantised",
    "apply_table",
    "bias_integers",
    "byte_planes",
    "ceil_div",
    "clip_bounds",
    "corner_places",
    "corner_step",
    "evaluate_steps",
    "from_byte_planes",
    "function_table",
    "interpolate",
    "multiply_requantised",
    "product_parameters",
    "psum_reach",
    "quantise_multiplier",
    "quantise_pair",
    "requantise",
    "requantise_parameters",
    "requantise_wide",
    "round_shift",
    "round_up",
    "sample_places",
    "weight_planes",
    "window_places",
]
