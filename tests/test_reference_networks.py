"""Every reference network from torch to RTL: the relation that the toolkit stands on."""

from __future__ import annotations

import pytest

from codesign.hw import timing
from codesign.simulate import compile_source, find, simulate

NETWORKS = (
    "bicubic_x2",
    "espcn_x3",
    "fsrcnn_x2",
    "sesr_m5_x2",
    "abpn_x3",
    "quicksrnet_m_x3",
    "edsr_f32b5_x2",
    "srvgg16_x4",
    "dncnn17",
)
CASES = (("base", (64, 64)), ("base", (61, 47)), ("tiny", (23, 17)))


@pytest.mark.parametrize(
    ("accel", "size"), CASES, ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value))
)
@pytest.mark.parametrize("name", NETWORKS)
def test_rtl_is_bit_exact(name, accel, size):
    compiled = compile_source(find(name), accel, size=size)
    result = simulate(compiled)
    assert result.bit_exact is True
    assert result.mismatches == 0
    # A constant output would prove nothing.
    assert result.distinct_output_values >= 32
    assert min(compiled.network.codes.values()) >= 32
    assert result.host_mac_share == 0.0
    counters = result.counters
    assert counters.busy_cycles + sum(counters.stalls.values()) == counters.cycles
    assert 0.0 < result.mac_utilization <= 1.0
    assert (result.quality_db is not None) == compiled.source.trained
    # The cycle model: one percent of a network, a little more where a frame is all start and end.
    predicted = sum(timing.predict(region.program).cycles for region in compiled.network.regions)
    assert abs(predicted - counters.cycles) <= 0.01 * counters.cycles + 20
