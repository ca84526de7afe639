"""The energy account: provenance is enforced, sums are right by hand, nothing is scaled silently."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.energy.account import DRAMS, account, by_layer, event_rates, layer_components, layer_energy
from codesign.energy.area import estimated_gates, silicon_area
from codesign.energy.costs import Operation, dynamic_costs
from codesign.energy.interval import Interval, engineering, span, total
from codesign.energy.listing import chosen, figure
from codesign.energy.memory import macro_energy
from codesign.energy.records import (
    constant,
    devices,
    find_record,
    lineage,
    load_records,
    nodes,
    records,
)
from codesign.hw.commands import COMPUTED
from codesign.hw.counters import STALL_CAUSES, Counters, LayerCounters
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE, PRESETS

COUNTED = Path(__file__).parents[2] / "benchmarks" / "results" / "gates.json"

NOTHING = Counters(**{field.name: 0 for field in dataclasses.fields(Counters)})
ONE_CYCLE = dataclasses.replace(NOTHING, cycles=1)

GOOD = {
    "what": "a thing",
    "value": 2.0,
    "low": 1.0,
    "high": 3.0,
    "unit": "pJ",
    "node": "28nm",
    "voltage": 0.9,
    "source": "somewhere",
    "confidence": "prior",
}

positive = st.floats(1e-12, 1e12)


@st.composite
def intervals(draw):
    low, value, high = sorted(draw(st.tuples(positive, positive, positive)))
    return Interval(value, low, high)


def write(tmp_path, **changes):
    entry = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = tmp_path / "constants.toml"
    path.write_text("[thing]\n" + "\n".join(f"{key} = {value!r}" for key, value in entry.items()))
    return path


class TestInterval:
    @pytest.mark.parametrize("bounds", [(1, 2, 3), (3, 1, 2), (1, -1, 2), (math.nan, 0, 1), (1, 1, math.inf)])
    def test_refuses_what_is_none(self, bounds):
        with pytest.raises(ValueError, match="not an interval"):
            Interval(*bounds)

    @given(intervals(), intervals())
    def test_arithmetic_keeps_every_combination_inside(self, a, b):
        for x in (a.low, a.value, a.high):
            for y in (b.low, b.value, b.high):
                for result, exact in ((a + b, x + y), (a * b, x * y), (a / b, x / y)):
                    assert result.low <= exact * (1 + 1e-12)
                    assert result.high >= exact * (1 - 1e-12)

    def test_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Interval(1, 1, 1).value = 2  # type: ignore[misc]

    def test_sum_of_nothing(self):
        assert total([]) == Interval.exact(0.0)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0 "),
            (84.1e-6, "84.1 µ"),
            (6360, "6.36 k"),
            (999.9, "1.00 k"),
            (9.999, "10.0 "),
            (99.99, "100 "),
            (1.2e-12, "1.20 p"),
            (-1500, "-1.50 k"),
        ],
    )
    def test_engineering(self, value, text):
        assert engineering(value) == text

    def test_span_writes_a_shared_unit_once(self):
        assert span(Interval(2e-6, 1e-6, 3e-6), "J") == "1.00 to 3.00 µJ"
        assert span(Interval(0.5, 0.4, 1.4), "W") == "400 mW to 1.40 W"
        # Without a unit a shared prefix would be taken for the second figure's alone.
        assert span(Interval(2e3, 1e3, 3e3), "") == "1.00 k to 3.00 k"


class TestRecords:
    def test_a_whole_record_loads(self, tmp_path):
        joules = load_records(write(tmp_path))["thing"].to("fJ")
        assert (joules.value, joules.low, joules.high) == pytest.approx((2000.0, 1000.0, 3000.0))

    def test_a_bare_number_is_refused(self, tmp_path):
        path = tmp_path / "constants.toml"
        path.write_text("mac = 0.2\n")
        with pytest.raises(InputError, match="mac is a bare number"):
            load_records(path)

    @pytest.mark.parametrize("field", sorted(GOOD))
    def test_every_field_is_needed(self, tmp_path, field):
        with pytest.raises(InputError, match=rf"thing {field}: Field required"):
            load_records(write(tmp_path, **{field: None}))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"value": 4.0}, "not between"),
            ({"value": 0.5}, "not between"),
            ({"low": -1.0}, "not between"),
            ({"high": math.inf}, "finite"),
            ({"unit": "joulez"}, "unknown unit"),
            ({"source": "  "}, "source"),
            ({"value": "2.0"}, "must be a number"),
            ({"voltage": 0.0}, "greater than 0"),
            ({"confidence": "certain"}, "confidence"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_incomplete_or_contradictory(self, tmp_path, changes, message):
        path = write(tmp_path, **changes)
        with pytest.raises(InputError, match=message) as caught:
            load_records(path)
        assert str(path) in str(caught.value)

    def test_no_table(self, tmp_path):
        with pytest.raises(InputError, match="not a readable table"):
            load_records(tmp_path / "missing.toml")
        (tmp_path / "broken.toml").write_text("[thing\n")
        with pytest.raises(InputError, match="not a readable table"):
            load_records(tmp_path / "broken.toml")

    def test_dimensions_are_checked(self):
        with pytest.raises(InputError, match="not convertible"):
            constant("mac_int8_28nm", "W")
        with pytest.raises(InputError, match="no energy record"):
            constant("mac_int8_3nm", "J")

    def test_what_ships(self):
        assert nodes() == tuple(f"{size}nm" for size in (5, 7, 12, 16, 22, 28, 40, 45, 65, 130, 180))
        assert constant("mac_int8_45nm", "pJ").value == pytest.approx(0.3)
        assert constant("mac_int8_7nm", "pJ").value == pytest.approx(0.1)
        mac = constant("mac_int8_28nm", "pJ")
        assert mac.value == pytest.approx(0.22, rel=0.05)
        for device in devices().values():
            assert {device.flop, device.memory} <= set(records())
        for dram in DRAMS:
            assert constant(dram, "J").value > constant(dram.replace("dram_", "phy_"), "J").value

    def test_sources_that_disagree_are_both_in_the_interval(self):
        mac = constant("mac_int8_40nm", "pJ")
        assert mac.low < 0.3 < 0.99 <= constant("mac_int8_45nm", "pJ").high  # Horowitz; Aladdin at 40 nm
        assert mac.high > 0.97
        sram = constant("sram_read_8KiB_7nm", "pJ")
        assert sram.low <= 0.2 * 0.24 * 1.01
        assert sram.high >= 7.5 / 8

    def test_the_shrunken_node_never_costs_more(self):
        sizes = sorted(nodes(), key=lambda node: float(node.removesuffix("nm")))
        units = dict.fromkeys(("mac_int8", "mac_int16", "register_bit", "requantise"), "J")
        for quantity, unit in {**units, "gate_area": "m**2", "sram_area": "m**2"}.items():
            values = [constant(f"{quantity}_{node}", unit).value for node in sizes]
            assert values == sorted(values), quantity


class TestDerived:
    PARENTS = """
[a_40nm]
what = "a"
value = 4.0
low = 2.0
high = 8.0
unit = "pJ"
node = "40nm"
voltage = 1.0
source = "somewhere"
confidence = "published"
[a_10nm]
what = "a"
value = 1.0
low = 0.5
high = 1.0
unit = "pJ"
node = "10nm"
voltage = 0.5
source = "elsewhere"
confidence = "published"
"""

    def made(self, tmp_path, rule, **fields):
        entry = {"what": "a", "unit": "fJ", "node": "20nm", "voltage": 0.8, "source": "it", "confidence": "derived"}
        lines = [f"{key} = {value!r}" for key, value in {**entry, **fields}.items() if value is not None]
        path = tmp_path / "constants.toml"
        path.write_text(f"{self.PARENTS}[made]\n" + "\n".join(lines) + f"\nderived = {rule}\n")
        return load_records(path)["made"]

    @pytest.mark.parametrize(
        ("rule", "value", "low", "high"),
        [
            # Half way between 10 and 40 nm in the logarithm, so the geometric mean.
            ('{ rule = "between nodes", of = ["a_40nm", "a_10nm"] }', 2000, 1000, math.sqrt(8) * 1000),
            ('{ rule = "capacitance", of = ["a_40nm"] }', 4000 * 0.5 * 0.64, 2000 * 0.32, 8000 * 0.32),
            ('{ rule = "capacitance", of = ["a_40nm"], spread = 2.0 }', 1280, 320, 5120),
            ('{ rule = "sum", of = { a_40nm = 1.0, a_10nm = 2.0 } }', 6000, 3000, 10000),
            ('{ rule = "product", of = { a_40nm = 0.5, a_10nm = 0.5 } }', 2000, 1000, math.sqrt(8) * 1000),
            ('{ rule = "product", of = { a_40nm = 2.0, a_10nm = -1.0 } }', 16000, 4000, 128000),
            ('{ rule = "both", of = ["a_40nm", "a_10nm"] }', 2000, 500, 8000),
        ],
    )
    def test_by_hand(self, tmp_path, rule, value, low, high):
        record = self.made(tmp_path, rule)
        assert (record.value, record.low, record.high) == pytest.approx((value, low, high))
        assert "a_40nm" in record.provenance

    @pytest.mark.parametrize(
        ("rule", "fields", "message"),
        [
            ('{ rule = "between nodes", of = ["a_40nm"] }', {}, "takes 2 records, not 1"),
            ('{ rule = "between nodes", of = ["a_40nm", "a_10nm"] }', {"node": "65nm"}, "65nm is not between"),
            ('{ rule = "between nodes", of = ["a_40nm", "a_10nm"] }', {"node": "any"}, "not a process node"),
            ('{ rule = "sum", of = ["a_40nm", "absent"] }', {}, "names no energy record: 'absent'"),
            ('{ rule = "sum", of = ["a_40nm"] }', {"unit": "W"}, "made derived"),
            ('{ rule = "product", of = ["a_40nm", "a_10nm"] }', {}, "made derived"),
            ('{ rule = "sum", of = ["made"] }', {}, "made is derived from itself"),
            ('{ rule = "sum", of = ["a_40nm"] }', {"value": 1.0}, "has a value of its own"),
            ('{ rule = "guess", of = ["a_40nm"] }', {}, "derived"),
            ('{ rule = "sum", of = ["a_40nm"] }', {"source": None}, "made source: Field required"),
        ],
    )
    def test_what_does_not_follow_is_refused(self, tmp_path, rule, fields, message):
        with pytest.raises(InputError, match=message):
            self.made(tmp_path, rule, **fields)

    def test_a_family_is_a_record_per_node(self, tmp_path):
        path = tmp_path / "constants.toml"
        family = (
            '["b_{node}"]\nname = "c_{node}"\nwhat = "c"\nunit = "pJ"\nnodes = ["20nm", "30nm"]\n'
            'confidence = "derived"\nsource = "a at {node}"\n'
            'derived = { rule = "between nodes", of = ["a_40nm", "a_10nm"] }\n'
        )
        supply = "".join(
            f'[supply_{node}]\nwhat = "supply"\nvalue = {volts}\nlow = {volts}\nhigh = {volts}\nunit = "V"\n'
            f'node = "{node}"\nvoltage = {volts}\nsource = "s"\nconfidence = "prior"\n'
            for node, volts in (("20nm", 0.7), ("30nm", 0.9))
        )
        path.write_text(self.PARENTS + supply + family)
        found = load_records(path)
        assert found["c_20nm"].voltage == 0.7
        assert found["c_30nm"].voltage == 0.9
        assert found["c_30nm"].source == "a at 30nm"
        path.write_text(self.PARENTS + family)
        with pytest.raises(InputError, match="c_20nm voltage: Field required"):
            load_records(path)
        path.write_text(self.PARENTS + supply + family + family.replace("b_", "d_"))
        with pytest.raises(InputError, match="c_20nm is defined twice"):
            load_records(path)

    def test_lineage_ends_at_published_figures(self):
        found = lineage("mac_int8_28nm")
        assert {"int8_multiply_45nm", "int8_multiply_7nm", "int32_add_45nm"} <= set(found)
        for name in records():
            for ancestor in lineage(name):
                record = find_record(ancestor)
                assert record.derived is not None or record.confidence in (
                    "published",
                    "measured",
                    "interpolated",
                    "prior",
                )


class TestListing:
    def test_by_node_and_words(self):
        found = chosen("int8 horowitz", "45nm")
        assert "int8_multiply_45nm" in found
        assert all(record.node in ("45nm", "any") for record in found.values())
        with pytest.raises(InputError, match="no records at '3nm'"):
            chosen("", "3nm")
        with pytest.raises(InputError, match="no record contains"):
            chosen("unobtainium")

    def test_a_figure_has_its_bounds_and_unit(self):
        assert figure(find_record("gates_per_mac")) == "1.57e+03 (1.25e+03 to 1.62e+03)"
        assert figure(find_record("dram_sensitivity")) == "20 pJ"
        assert figure(find_record("sram_cell_area_28nm")) == "0.127 (0.12 to 0.155) um2"


class TestMemory:
    def test_a_recorded_size_is_the_record(self):
        found = macro_energy(8 * 1024, "28nm")
        assert found.joules == constant("sram_read_8KiB_28nm", "J")
        assert found.records == ("sram_read_8KiB_28nm",)

    def test_between_records_it_is_log_interpolated(self):
        found = macro_energy(16 * 1024, "28nm")  # the logarithmic middle of 8 and 32 KiB
        ends = [constant(f"sram_read_{size}KiB_28nm", "J").value for size in (8, 32)]
        assert found.joules.value == pytest.approx(math.sqrt(ends[0] * ends[1]))
        assert found.records == ("sram_read_8KiB_28nm", "sram_read_32KiB_28nm")

    @given(st.integers(1, 1024 * 1024), st.integers(1, 1024 * 1024), st.sampled_from(nodes()))
    def test_larger_is_never_cheaper(self, a, b, node):
        small, large = (macro_energy(size, node).joules for size in sorted((a, b)))
        assert small.value <= large.value * (1 + 1e-12)

    def test_small_macros_cost_what_the_smallest_record_does(self):
        assert macro_energy(100, "28nm").joules == constant("sram_read_2KiB_28nm", "J")

    def test_beyond_the_table_is_an_error(self):
        with pytest.raises(InputError, match="exceeds the largest record"):
            macro_energy(4 * 1024 * 1024, "28nm")
        with pytest.raises(InputError, match="no SRAM records at 3nm"):
            macro_energy(1024, "3nm")

    def test_the_130nm_macro_is_the_foundrys(self):
        """CACTI says 3.9 pJ for what the foundry's own Liberty file puts at 91.8."""
        assert constant("sram_read_8KiB_130nm", "pJ").value * 8 == pytest.approx(91.8, rel=0.01)


EVENTS = dataclasses.replace(
    NOTHING,
    cycles=1000,
    busy_cycles=900,
    macs_issued=900 * 2048,
    dram_command_read_bytes=100,
    dram_weight_read_bytes=200,
    dram_load_read_bytes=300,
    dram_write_bytes=400,
    scratchpad_read_words=500,
    scratchpad_write_words=600,
    weight_read_words=900,
    requantised_values=700,
    dram_gather_read_bytes=80,
    **{f"{cause}_stall_cycles": 50 for cause in STALL_CAUSES},
)


class TestAccount:
    def part(self, bill, name):
        return next(part for part in bill.components if part.name == name)

    def test_by_hand(self):
        """1000 MACs, 80 DRAM bytes and 10 requantised values in one cycle, at 45 nm."""
        counters = dataclasses.replace(
            ONE_CYCLE, macs_issued=1000, dram_command_read_bytes=50, dram_write_bytes=30, requantised_values=10
        )
        bill = account(counters, BASE, node="45nm")
        mult, add, last = (
            constant(name, "dimensionless").value
            for name in ("multiply_activity", "sum_activity", "accumulate_activity")
        )
        # A 16-bit addition of 0.05 pJ, nine eighths wide, seven of eight lanes; the eighth accumulates in 32 bits.
        mac_pj = 0.2 * mult + 0.05 * 1.125 * 7 / 8 * add + 0.1 / 8 * last
        assert self.part(bill, "MAC data path").joules.value == pytest.approx(1000 * mac_pj * 1e-12)
        assert self.part(bill, "DRAM").joules.value == pytest.approx(80 * 8 * 8e-12)
        assert self.part(bill, "PHY and controller").joules.value == pytest.approx(80 * 8 * 2e-12)
        assert self.part(bill, "requantisation").joules.value == pytest.approx(10 * 3.5e-12)
        psums = constant("toggle_psums", "dimensionless").value * 9e-15 * 45 / 40 * 32 * 10
        stored = constant("toggle_activations", "dimensionless").value * 9e-15 * 45 / 40 * 16 * 30
        assert self.part(bill, "array registers").joules.value == pytest.approx(psums)
        assert self.part(bill, "store queue").joules.value == pytest.approx(stored)
        switched = 1000 * mac_pj * 1e-12 + 35e-12 + psums + stored
        assert self.part(bill, "control").joules.value == pytest.approx(0.07 * switched)
        assert self.part(bill, "clock tree").joules.value == pytest.approx(0.18 * switched)
        cells_mm2 = estimated_gates(BASE).equivalents.value * 0.798e-6
        leakage_w = constant("leakage_sram_45nm", "W").value * 8 * sum(BASE.on_chip_bytes().values())
        leakage_w += constant("leakage_logic_45nm", "W/mm**2").value * cells_mm2
        assert self.part(bill, "leakage").joules.value == pytest.approx(leakage_w / BASE.clock_hz)
        before = total(part.joules for part in bill.components if part.name != "regulator loss")
        assert bill.system_j.value == pytest.approx(before.value / 0.9)
        assert bill.system_j.low == pytest.approx(before.low / 0.93)
        assert bill.system_j.high == pytest.approx(before.high / 0.85)

    def test_chip_and_system_are_apart(self):
        bill = account(dataclasses.replace(ONE_CYCLE, dram_write_bytes=64), BASE)
        off_chip = {part.name for part in bill.components if not part.on_chip}
        assert off_chip == {"DRAM", "PHY and controller", "regulator loss"}
        assert bill.chip_j.value < bill.system_j.value

    def test_every_component_can_be_traced(self):
        bill = account(EVENTS, BASE)
        names = [part.name for part in bill.components]
        assert len(set(names)) == len(names)
        for part in bill.components:
            assert part.records
            assert set(part.records) <= set(records())
            assert part.counters
            assert all(hasattr(EVENTS, name) for name in part.counters)
            assert part.joules.value > 0.0

    def test_no_cost_comes_from_nowhere(self):
        """Every event that the RTL counts on the array, memories and bus costs something."""
        counted = {cost.counter for cost in dynamic_costs(BASE, Operation())}
        free = {"commands", "dram_command_read_bytes", "cycles", "gathered_reads"}
        beside = {row.cause for row in COMPUTED.values()}  # waiting costs nothing, but units beside the array work then
        free |= {f"{cause}_stall_cycles" for cause in STALL_CAUSES if cause not in beside}
        assert counted | free == {field.name for field in dataclasses.fields(Counters)}

    @pytest.mark.parametrize("node", nodes())
    @pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS.keys())
    def test_every_preset_is_accountable_at_every_node(self, spec, node):
        assert account(ONE_CYCLE, spec, node=node).system_j.value > 0.0

    def test_more_events_never_cost_less(self):
        base = account(ONE_CYCLE, BASE).system_j
        for field in (
            "busy_cycles",
            "macs_issued",
            "dram_weight_read_bytes",
            "scratchpad_read_words",
            "scratchpad_write_words",
            "weight_read_words",
            "requantised_values",
        ):
            more = account(dataclasses.replace(ONE_CYCLE, **{field: 1000}), BASE).system_j
            assert more.low > base.low, field
            assert more.value > base.value, field

    def test_dram_is_a_choice_and_has_a_costly_case(self):
        counters = dataclasses.replace(ONE_CYCLE, dram_command_read_bytes=1000)
        lpddr4, lpddr5 = (account(counters, BASE, dram=dram) for dram in ("dram_lpddr4", "dram_lpddr5"))
        assert lpddr5.system_j.value < lpddr4.system_j.value < lpddr4.costly_dram_j
        # 20 pJ in place of the device's 8 and the interface's 2.
        assert lpddr4.costly_dram_j - lpddr4.system_j.value == pytest.approx(8000 * 10e-12 / 0.9)
        assert all(account(counters, BASE, dram=dram).system_j.value > 0.0 for dram in DRAMS)

    def test_engines_and_levels_partition_the_bill(self):
        bill = account(EVENTS, BASE)
        assert total(bill.by_engine.values()).value == pytest.approx(bill.chip_j.value)
        loss = self.part(bill, "regulator loss").joules.value
        assert total(bill.by_level.values()).value == pytest.approx(bill.system_j.value - loss)

    def test_at_another_node_only_the_chip_shrinks(self):
        bill = account(EVENTS, BASE)
        small = bill.at("7nm")
        assert small.chip_j.value < bill.chip_j.value
        assert self.part(small, "DRAM").joules == self.part(bill, "DRAM").joules
        assert bill.at_7nm_j == account(EVENTS, BASE, node="7nm").system_j

    def test_a_linear_form_gives_the_same(self):
        bill = account(EVENTS, BASE, node="12nm", volts=0.6)
        rates = event_rates(BASE, node="12nm", volts=0.6)
        summed = total(rate * float(getattr(EVENTS, name)) for name, rate in rates.items())
        assert (summed.value, summed.low, summed.high) == pytest.approx(
            (bill.system_j.value, bill.system_j.low, bill.system_j.high)
        )

    def test_supply_and_temperature(self):
        hot, slow, cold = (
            account(EVENTS, BASE, node="12nm", volts=volts, celsius=celsius)
            for volts, celsius in ((0.8, 85), (0.4, 85), (0.8, 25))
        )
        assert slow.chip_j.value == pytest.approx(hot.chip_j.value / 4)
        assert self.part(cold, "leakage").joules.value == pytest.approx(0.12 * self.part(hot, "leakage").joules.value)
        assert self.part(cold, "MAC data path") == self.part(hot, "MAC data path")

    def test_wide_operands_cost_more(self):
        narrow, wide = (account(EVENTS, BASE, operand_bits=bits) for bits in (8, 16))
        assert self.part(wide, "MAC data path").joules.value > 2 * self.part(narrow, "MAC data path").joules.value

    def test_layers_and_the_rest_add_up(self):
        def layer(name, busy):
            return LayerCounters(name, 0, 1000, busy, 100, 120, 350)

        layers = (layer("first", 300), layer("second", 600))
        bill = account(EVENTS, BASE)
        found = by_layer(bill, layers)
        assert list(found) == ["first", "second", "load and store"]
        assert total(found.values()).value == pytest.approx(bill.system_j.value)
        assert found["second"].value > found["first"].value
        assert layer_energy(layers[0], BASE) == total(part.joules for part in layer_components(layers[0], BASE))

    def test_watts(self):
        bill = account(ONE_CYCLE, BASE, seconds=2.0)
        assert bill.watts.value == pytest.approx(bill.system_j.value / 2.0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"node": "3nm"}, "no energy records at 3nm"),
            ({"dram": "hbm"}, "unknown DRAM"),
            ({"volts": 9.0}, "a supply of 9.0 V"),
            ({"operand_bits": 4}, "operands of 4 bits"),
            ({"celsius": 40}, "silicon at 40 C"),
        ],
    )
    def test_nothing_is_scaled_silently(self, changes, message):
        with pytest.raises(InputError, match=message):
            account(ONE_CYCLE, BASE, **changes)

    def test_a_frame_takes_time(self):
        with pytest.raises(InputError, match="cannot take"):
            account(NOTHING, BASE)


class TestArea:
    @pytest.mark.parametrize("name", PRESETS)
    def test_estimates_lie_near_what_yosys_counted(self, name):
        counted = json.loads(COUNTED.read_text())["presets"][name]
        found = estimated_gates(PRESETS[name])
        assert found.combinational.value == pytest.approx(counted["gates"], rel=0.15)
        assert found.flip_flops.value == pytest.approx(counted["flip_flops"], rel=0.15)

    def test_a_square_millimetre_by_hand(self):
        found = silicon_area(BASE, "45nm")
        assert found.logic_mm2.value == pytest.approx(found.gates.value * 0.798e-6 / 0.7)
        bits = 8 * sum(BASE.on_chip_bytes().values())
        assert found.memory_mm2.value == pytest.approx(bits * 0.299e-6 / 0.6)
        assert found.mm2.value == pytest.approx(found.logic_mm2.value + found.memory_mm2.value)
        with pytest.raises(InputError, match="no area records at 3nm"):
            silicon_area(BASE, "3nm")
