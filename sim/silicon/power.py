"""Energy of a mapped block from its nets' transitions: loads, internal energies, clock pins, leakage.

Loads are the pins that a net drives and a wire per pin; wires are not routed, and their length is given in sides of the
library's gate equivalent. Internal energies are read at one input slew and averaged over related pins. Glitches, short
pulses and the clock tree above the flip-flops' pins are not included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from codesign.sim.silicon.liberty import Library
from codesign.sim.silicon.netlist import Activity, Netlist

SLEW_NS = 0.2
"""Input slew at which internal energies are read."""

WIRE_PF_PER_MM = 0.2


@dataclass(frozen=True)
class BlockEnergy:
    """Energies of a whole run of ``cycles`` in joules; ``leakage_w`` in watts."""

    cycles: int
    by_owner: dict[str, float]
    """Joules of data transitions by the register that the cells belong to (``Netlist.owners``): in the loads of the
    nets they drive, and inside the cells."""
    clock_j: float
    """Clock pins of the flip-flops, in every cycle: nothing gates them."""
    leakage_w: float
    area: float  # area of the cells, in the library's unit
    gate_equivalents: float
    flip_flops: int

    @property
    def dynamic_j(self) -> float:
        """Energy of data transitions, without clock and leakage."""
        return sum(self.by_owner.values())


def block_energy(netlist: Netlist, library: Library, activity: Activity, *, wire_gates_per_pin: float) -> BlockEnergy:
    """Energy of a run. ``wire_gates_per_pin``: length of a net's wire per pin it drives, in sides of a NAND2."""
    side_mm = math.sqrt(library.nand2.area) * 1e-3
    wire_pf = WIRE_PF_PER_MM * wire_gates_per_pin * side_mm
    load_pf: defaultdict[int, float] = defaultdict(float)
    for one in netlist.instances:
        for name, net in one.pins.items():
            pin = library.cells[one.cell].pins[name]
            if not pin.is_output:
                load_pf[net] += pin.capacitance_pf + wire_pf
    changes = activity.transitions
    clock_net = None if netlist.clock is None else netlist.ports[netlist.clock].nets[0]
    per_volt = 0.5e-12 * library.voltage**2

    def changed(net: int) -> int:
        return int(changes[net]) if 1 < net < len(changes) else 0

    # The drivers of the block's inputs are outside, but their load belongs to the block.
    inputs = {net for port in netlist.ports.values() if port.is_input for net in port.nets if net != clock_net}
    by_owner: defaultdict[str, float] = defaultdict(float)
    by_owner["inputs"] = sum(per_volt * load_pf[net] * changed(net) for net in inputs)
    clock = leakage = area = 0.0
    flip_flops = 0
    for one, owner in zip(netlist.instances, netlist.owners(library), strict=True):
        cell = library.cells[one.cell]
        leakage += cell.leakage_w
        area += cell.area
        flip_flops += cell.flip_flop is not None
        for name, net in one.pins.items():
            pin = cell.pins[name]
            if net == clock_net:
                each = per_volt * (pin.capacitance_pf + wire_pf) + pin.internal_j(SLEW_NS, 0.0)
                clock += 2 * activity.cycles * each
            elif pin.is_output:
                load = load_pf[net]
                by_owner[owner] += (per_volt * load + pin.internal_j(SLEW_NS, load)) * changed(net)
            else:
                by_owner[owner] += pin.internal_j(SLEW_NS, 0.0) * changed(net)
    return BlockEnergy(activity.cycles, dict(by_owner), clock, leakage, area, area / library.nand2.area, flip_flops)
