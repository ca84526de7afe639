"""The energy account: provenance is enforced, sums are right by hand, nothing is scaled silently."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.energy.account import DRAMS, account
from codesign.energy.interval import Interval, engineering, span, total
from codesign.energy.records import constant, devices, load_records, memory_read_j_per_byte, nodes, records
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE, PRESETS

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
        assert nodes() == ("28nm",)
        mac = constant("mac_int8_28nm", "J")
        assert (mac.value, mac.low, mac.high) == pytest.approx((0.22e-12, 0.15e-12, 0.30e-12))
        for device in devices().values():
            assert {device.flop, device.memory} <= set(records())


class TestMemory:
    def test_a_recorded_size_is_the_record(self):
        joules, used = memory_read_j_per_byte(8 * 1024, "28nm")
        assert joules.value == pytest.approx(0.34e-12)
        assert "sram_read_8KiB_28nm" in used

    def test_between_records_it_is_log_interpolated(self):
        joules, used = memory_read_j_per_byte(16 * 1024, "28nm")  # the logarithmic middle of 8 and 32 KiB
        assert joules.value == pytest.approx(math.sqrt(0.34 * 0.57) * 1e-12)
        assert used == ("sram_read_8KiB_28nm", "sram_read_32KiB_28nm")

    @given(st.integers(1, 2 * 1024 * 1024), st.integers(1, 2 * 1024 * 1024))
    def test_larger_is_never_cheaper(self, a, b):
        small, large = (memory_read_j_per_byte(size, "28nm")[0] for size in sorted((a, b)))
        assert small.value <= large.value * (1 + 1e-12)

    def test_small_macros_cost_what_the_smallest_record_does(self):
        assert memory_read_j_per_byte(100, "28nm")[0].value == pytest.approx(0.14e-12)

    def test_beyond_the_table_is_an_error(self):
        with pytest.raises(InputError, match="exceeds the largest record"):
            memory_read_j_per_byte(4 * 1024 * 1024, "28nm")
        with pytest.raises(InputError, match="no SRAM records at 5nm"):
            memory_read_j_per_byte(1024, "5nm")


class TestAccount:
    def part(self, bill, name):
        return next(part for part in bill.components if part.name == name)

    def test_by_hand(self):
        """1000 MACs, 80 DRAM bytes and 10 requantised values in one cycle."""
        counters = dataclasses.replace(
            ONE_CYCLE, macs_issued=1000, dram_load_read_bytes=50, dram_write_bytes=30, requantised_values=10
        )
        bill = account(counters, BASE)
        assert self.part(bill, "MAC data path").joules.value == pytest.approx(1000 * 0.22e-12)
        assert self.part(bill, "DRAM and interface").joules.value == pytest.approx(80 * 8 * 8e-12)
        assert self.part(bill, "requantisation").joules.value == pytest.approx(10 * 2.2e-12)
        assert self.part(bill, "control and clock").joules.value == pytest.approx(0.25 * (220e-12 + 22e-12))
        leakage_w = 1e-9 * 8 * sum(BASE.on_chip_bytes().values()) + 420e-6 * 1.5 * 2048 * 0.03
        assert self.part(bill, "leakage").joules.value == pytest.approx(leakage_w / BASE.clock_hz)
        before = total(part.joules for part in bill.components if part.name != "regulator loss")
        assert bill.system_j.value == pytest.approx(before.value / 0.9)
        assert bill.system_j.low == pytest.approx(before.low / 0.93)
        assert bill.system_j.high == pytest.approx(before.high / 0.85)

    def test_chip_and_system_are_apart(self):
        bill = account(dataclasses.replace(ONE_CYCLE, dram_write_bytes=64), BASE)
        off_chip = {part.name for part in bill.components if not part.on_chip}
        assert off_chip == {"DRAM and interface", "regulator loss"}
        assert bill.chip_j.value < bill.system_j.value

    def test_every_component_names_its_records(self):
        bill = account(ONE_CYCLE, BASE)
        assert all(part.records and set(part.records) <= set(records()) for part in bill.components)

    @pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS.keys())
    def test_every_preset_is_accountable(self, spec):
        assert account(ONE_CYCLE, spec).system_j.value > 0.0

    def test_more_events_never_cost_less(self):
        base = account(ONE_CYCLE, BASE).system_j
        for field in ("busy_cycles", "macs_issued", "dram_weight_read_bytes", "scratchpad_read_words",
                      "scratchpad_write_words", "weight_read_words", "requantised_values"):  # fmt: skip
            more = account(dataclasses.replace(ONE_CYCLE, **{field: 1000}), BASE).system_j
            assert more.low > base.low, field
            assert more.value > base.value, field

    def test_dram_is_a_choice_and_has_a_costly_case(self):
        counters = dataclasses.replace(ONE_CYCLE, dram_load_read_bytes=1000)
        lpddr4, lpddr5 = (account(counters, BASE, dram=dram) for dram in DRAMS)
        assert lpddr5.system_j.value < lpddr4.system_j.value < lpddr4.costly_dram_j
        assert lpddr4.costly_dram_j - lpddr4.system_j.value == pytest.approx(8000 * 12e-12 / 0.9)

    def test_at_7nm_only_the_chip_shrinks(self):
        chip = account(dataclasses.replace(ONE_CYCLE, macs_issued=10**6), BASE)
        assert chip.at_7nm_j.value == pytest.approx(0.45 * chip.system_j.value)
        memory = account(dataclasses.replace(ONE_CYCLE, dram_write_bytes=10**9), BASE)
        assert memory.at_7nm_j.value == pytest.approx(memory.system_j.value, rel=1e-3)

    def test_watts(self):
        bill = account(ONE_CYCLE, BASE, seconds=2.0)
        assert bill.watts.value == pytest.approx(bill.system_j.value / 2.0)

    def test_nothing_is_scaled_silently(self):
        with pytest.raises(InputError, match="no energy records at 7nm"):
            account(ONE_CYCLE, BASE, node="7nm")
        with pytest.raises(InputError, match="unknown DRAM"):
            account(ONE_CYCLE, BASE, dram="hbm")
        with pytest.raises(InputError, match="cannot take"):
            account(NOTHING, BASE)
