"""Switching of gate-level netlists: they compute what they should, and their transitions are counted right."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.hw.errors import InputError
from codesign.sim.silicon.switching import Circuit, Gate, circuit, outputs, simulate, switched


@pytest.fixture(scope="module")
def multiplier() -> Circuit:
    return circuit(
        "module m(input signed [7:0] a, input signed [7:0] b, output signed [15:0] y); assign y = a * b; endmodule", "m"
    )


def test_a_mapped_multiplier_multiplies(multiplier):
    a, b = (values.ravel() for values in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    found = outputs(multiplier, simulate(multiplier, {"a": a, "b": b}), "y", a.size)
    np.testing.assert_array_equal(found, (a * b) & 0xFFFF)


def test_nothing_switches_when_nothing_changes(multiplier):
    still = {"a": np.full(100, -77), "b": np.full(100, 31)}
    assert switched(multiplier, still) == 0.0
    rng = np.random.default_rng(0)
    lively = {name: rng.integers(-128, 128, 5000) for name in "ab"}
    small = {name: rng.integers(-8, 8, 5000) for name in "ab"}
    assert switched(multiplier, small) < switched(multiplier, lively)


def test_transitions_by_hand():
    """An AND of two inputs into an inverter: nets 2 and 3 are read once, net 4 too, net 5 by nobody."""
    gates = (Gate("$_AND_", (2, 3), 4), Gate("$_NOT_", (4,), 5))
    of = Circuit({"a": (2,), "b": (3,), "y": (5,)}, frozenset({"a", "b"}), gates)
    stimuli = {"a": np.array([0, 1, 1, 0, 1]), "b": np.array([1, 1, 1, 1, 0])}
    # a changes three times, b once, the AND twice (1 at two places), and so does the inverter.
    assert switched(of, stimuli) == pytest.approx((3 * 2 + 1 * 2 + 2 * 2 + 2 * 1) / 4)


def test_registers_are_refused():
    with pytest.raises(InputError, match="is not a gate"):
        circuit("module r(input c, input d, output reg q); always @(posedge c) q <= d; endmodule", "r")
