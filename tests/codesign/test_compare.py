"""Scanline beside GPUs: rooflines by hand, recorded measurements, limits of the verdict."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from codesign.energy.account import Evidence, account
from codesign.energy.gpu import Layer, Workload, find_device, load_recorded, on_gpu, roofline
from codesign.energy.interval import Interval
from codesign.energy.records import constant, devices
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE, TINY
from codesign.report.figures import figures
from codesign.sim.silicon import synthesis
from codesign.sim.silicon.synthesis import FpgaFit, PathStep, Resource, Synthesis, hardware_key
from codesign.workflows.compare import Comparison, compare_targets, fpga_row, gpu_row, host_work, scanline_row, times
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find

WORK = Workload("net", "64x64", "128x128", macs=10**9, compulsory_values=10**6)
COUNTERS = dataclasses.replace(
    Counters(**{field.name: 0 for field in dataclasses.fields(Counters)}),
    cycles=10**6,
    busy_cycles=9 * 10**5,
    macs_issued=9 * 10**5 * 2048,
    dram_load_read_bytes=10**6,
    weight_read_words=9 * 10**5,
    requantised_values=10**6,
)


@pytest.fixture(autouse=True)
def nothing_synthesised(monkeypatch, tmp_path):
    """Designs that the user has placed and routed add no row here."""
    monkeypatch.setattr(synthesis, "cache_folder", lambda: tmp_path / "cache")


RECORD = {
    "network": "net",
    "input_size": "64x64",
    "output_size": "128x128",
    "device": "H200",
    "device_name": "NVIDIA H200",
    "precision": "FP16",
    "batch": 8,
    "ms_per_frame": {"value": 0.02, "low": 0.019, "high": 0.022},
    "j_per_frame": {"value": 0.008, "low": 0.0075, "high": 0.009},
    "idle_w": 76.0,
    "loop_seconds": 30.0,
    "loops": 5,
    "sm_clock_mhz": 1980.0,
    "memory_clock_mhz": 3201.0,
    "temperature_c": 41.0,
    "driver": "580.65",
    "cuda": "13.0",
    "software": "torch 2.13.0, torch.compile max-autotune",
    "method": "total energy counter, synchronised at both ends",
    "command": "python benchmarks/gpu.py net",
    "date": "2026-01-31",
    "commit": "0123abc",
    "quality_db": 36.5,
}


def recorded(tmp_path, name="one.json", **changes):
    path = tmp_path / name
    path.write_text(json.dumps({**RECORD, **changes}))
    return path


def comparison(*gpu_joules: float, chip_joules: float | None = None) -> Comparison:
    bill = account(COUNTERS, BASE)
    chip = scanline_row(COUNTERS, BASE, bill, evidence=Evidence.RTL, quality_db=34.5)
    if chip_joules is not None:
        chip = dataclasses.replace(chip, j_per_frame=Interval.exact(chip_joules))
    rows = [
        dataclasses.replace(
            gpu_row(WORK, "H200", quality_db=None),
            target=f"GPU {index}",
            j_per_frame=Interval(joules, joules / 2, joules * 2),
        )
        for index, joules in enumerate(gpu_joules)
    ]
    return Comparison("net", "64x64", "128x128", 10**9, (chip, *rows), {"int8": 34.5}, bill, {}, "command")


class TestFpga:
    PATH = (PathStep("clk-to-q", 10.0, "u_conv.a_q_TRELLIS_FF_Q"), PathStep("setup", 30.0, "u_conv.b_q_TRELLIS_FF_Q"))
    FIT = FpgaFit("ECP5", {"LUT": Resource(60, 100), "DSP": Resource(9, 10)}, 25e6, PATH)

    def test_the_cycles_at_the_clock_it_reached(self):
        one = comparison().rows[0]
        row = fpga_row(one, COUNTERS, BASE, self.FIT)
        assert (row.kind, row.evidence, row.precision) == ("fpga", Evidence.NETLIST, "INT8")
        assert row.ms_per_frame.value == pytest.approx(40.0)  # 10^6 cycles at 25 MHz
        assert row.j_per_frame is row.watts is row.chip_j_per_frame is None
        assert row.evidence_by_figure["j_per_frame"] is None
        assert row.quality_db == one.quality_db
        assert "60% of the LUTs, 90% of the DSPs" in row.notes

    def test_modelled_cycles_stay_modelled(self):
        one = dataclasses.replace(comparison().rows[0], evidence=Evidence.MODEL)
        assert fpga_row(one, COUNTERS, BASE, self.FIT).evidence is Evidence.MODEL

    def test_without_energy_it_has_no_part_in_the_verdict(self):
        made = comparison(1.0)
        row = fpga_row(made.rows[0], COUNTERS, BASE, self.FIT)
        with_fpga = dataclasses.replace(made, rows=(made.rows[0], row, made.rows[1]))
        assert with_fpga.best_other is made.rows[1]
        assert with_fpga.verdict == made.verdict

    def test_a_recorded_fit_of_this_very_hardware_makes_a_row(self, tmp_path, monkeypatch):
        monkeypatch.setattr(synthesis, "cache_folder", lambda: tmp_path / "cache")
        (tmp_path / "fpga").mkdir()
        compiled = compile_source(find("bicubic_x2"), "tiny", FrameChoice((23, 17)))
        result = simulate(compiled, backend="reference")
        made = Synthesis("tiny", hardware_key(result.spec), {}, (), self.FIT)
        (tmp_path / "fpga" / "tiny.json").write_text(json.dumps(made.to_json()))
        other = dataclasses.replace(made, hardware="of another day")
        (tmp_path / "fpga" / "old.json").write_text(json.dumps(other.to_json()))
        compared, _ = compare_targets(result, ["H200"], command="the command", results=tmp_path)
        assert [row.kind for row in compared.rows] == ["asic", "fpga", "gpu"]
        assert compared.rows[1].target == "Scanline tiny (ECP5, 25 MHz)"


class TestRoofline:
    def test_a_computing_network_by_hand(self):
        figures = roofline(WORK, find_device("H200"))
        share = constant("gpu_peak_share", "dimensionless")
        assert figures.seconds.value == pytest.approx(2e9 / 989e12 / share.value)
        assert figures.seconds.low == pytest.approx(2e9 / 989e12 / share.high)
        above_idle = 2e9 * 0.59e-12 + 8 * 2e6 * 11.7e-12
        assert figures.joules_above_idle.value == pytest.approx(above_idle)
        assert figures.joules.value == pytest.approx(above_idle + 75.0 * figures.seconds.value)
        assert figures.evidence is Evidence.MODEL

    def test_a_moving_network_is_bound_by_memory(self):
        figures = roofline(dataclasses.replace(WORK, macs=1), find_device("A100"))
        assert figures.seconds.value * 0.35 == pytest.approx(2e6 / 2039e9)

    @pytest.mark.parametrize("name", devices())
    @pytest.mark.parametrize("macs", [1, 10**9, 10**13])
    def test_no_board_exceeds_its_power(self, name, macs):
        figures = roofline(dataclasses.replace(WORK, macs=macs), find_device(name))
        assert figures.watts.high <= find_device(name).board_w
        assert figures.watts.low >= find_device(name).idle_w.low

    def test_feature_maps_beyond_the_cache_count_in_the_high_bound_alone(self):
        small, large = Layer(10**6, 100), Layer(10**8, 100)
        work = dataclasses.replace(WORK, layers=(small, large))
        assert work.moved_bytes(50 * 2**20) == Interval(2e6, 2e6, 2e6 + 2e8)
        assert dataclasses.replace(WORK, layers=(small,)).moved_bytes(50 * 2**20).is_exact

    def test_unknown_device(self):
        with pytest.raises(InputError, match="unknown GPU 'H2000'"):
            on_gpu(WORK, "H2000")


class TestRecorded:
    def test_a_fitting_record_is_taken(self, tmp_path):
        row = gpu_row(WORK, "H200", quality_db=30.0, recorded=[recorded(tmp_path)])
        assert row.target == "H200, measured"
        assert set(row.evidence_by_figure.values()) == {Evidence.HARDWARE}
        assert row.ms_per_frame.value == pytest.approx(0.02)
        assert row.j_per_frame == Interval(0.008, 0.0075, 0.009)
        assert row.j_above_idle is not None
        assert row.j_above_idle.value == pytest.approx(0.008 - 76.0 * 20e-6)
        assert row.quality_db == 36.5
        assert row.watts.value == pytest.approx(400.0)
        assert row.records == ("one.json",)
        assert "10.1% of the FP16 peak" in row.notes

    def test_without_a_quality_of_its_own_the_network_s_stands_in(self, tmp_path):
        row = gpu_row(WORK, "H200", quality_db=30.0, recorded=[recorded(tmp_path, quality_db=None)])
        assert (row.quality_db, row.quality_evidence) == (30.0, Evidence.MODEL)

    @pytest.mark.parametrize(
        "changes", [{"network": "other"}, {"input_size": "65x64"}, {"output_size": "64x64"}, {"device": "A100"}]
    )
    def test_another_case_s_record_is_not(self, tmp_path, changes):
        row = gpu_row(WORK, "H200", quality_db=None, recorded=[recorded(tmp_path, **changes)])
        assert row.evidence is Evidence.MODEL

    def test_the_best_software_wins(self, tmp_path):
        worse = {"value": 0.02, "low": 0.02, "high": 0.02}
        paths = [recorded(tmp_path, "a.json", j_per_frame=worse), recorded(tmp_path, "b.json")]
        assert gpu_row(WORK, "H200", quality_db=None, recorded=paths).records == ("b.json",)

    @pytest.mark.parametrize("field", sorted(set(RECORD) - {"quality_db"}))
    def test_provenance_is_whole_or_refused(self, tmp_path, field):
        path = tmp_path / "one.json"
        path.write_text(json.dumps({key: value for key, value in RECORD.items() if key != field}))
        with pytest.raises(InputError, match=rf"{field} Field required"):
            load_recorded(path)

    @pytest.mark.parametrize(
        "changes",
        [
            {"ms_per_frame": {"value": 0.0, "low": 0.0, "high": 0.0}},
            {"j_per_frame": {"value": 1.0, "low": 2.0, "high": 3.0}},
            {"loop_seconds": 0.5},
            {"batch": 0},
            {"date": "yesterday"},
            {"commit": "main"},
            {"input_size": "64"},
            {"extra": 1},
        ],
    )
    def test_impossible_values_are_refused(self, tmp_path, changes):
        with pytest.raises(InputError, match="is not a GPU measurement"):
            load_recorded(recorded(tmp_path, **changes))

    def test_a_broken_file_is_named(self, tmp_path):
        path = tmp_path / "broken.json"
        path.write_text("{")
        with pytest.raises(InputError, match=r"broken\.json"):
            gpu_row(WORK, "H200", quality_db=None, recorded=[path])
        with pytest.raises(InputError, match=r"missing\.json"):
            load_recorded(tmp_path / "missing.json")

    def test_what_ships_loads(self):
        from codesign.workflows.compare import RESULTS

        for path in sorted((RESULTS / "gpu").glob("*.json")):
            load_recorded(path)


class TestScanline:
    def test_row(self):
        bill = account(COUNTERS, BASE)
        row = scanline_row(COUNTERS, BASE, bill, evidence=Evidence.RTL, quality_db=None, apart=host_work(0.02, 0.004))
        assert row.ms_per_frame == Interval.exact(1.0)
        assert row.fps.value == pytest.approx(1000.0)
        assert (row.evidence, row.energy_evidence) == (Evidence.RTL, Evidence.MODEL)
        assert row.evidence_by_figure["quality_db"] is None
        assert row.chip_j_per_frame == bill.chip_j
        assert "2.0% of the MACs and chroma (4.00 ms)" in row.notes
        assert "28 nm" in row.target
        assert "LPDDR4" in row.boundary

    def test_nothing_on_the_host_says_nothing(self):
        assert host_work(0.0, 0.0) == ""


class TestVerdict:
    def test_less(self):
        made = comparison(1.0, 0.5, chip_joules=0.1)
        assert made.best_other is not None
        assert made.best_other.target == "GPU 1"
        assert "5.0 times less (2.5 to 10)." in made.verdict

    def test_more_is_said_as_more(self):
        assert "10 times more (5.0 to 20)." in comparison(0.01, chip_joules=0.1).verdict

    def test_a_band_across_one_decides_nothing(self):
        assert "the band does not exclude the opposite" in comparison(0.11, chip_joules=0.1).verdict

    def test_alone(self):
        made = comparison()
        assert made.ratio is None
        assert made.ratio_at_7nm is None
        assert "on Scanline base" in made.verdict
        assert made.remarks

    def test_remarks_name_nodes_dram_and_the_model(self):
        text = " ".join(comparison(1.0).remarks)
        assert "own node" in text
        assert "7 nm" in text
        assert "20 pJ per bit" in text
        assert "flatters its GPU" in text

    @pytest.mark.parametrize(("ratio", "text"), [(3.84, "3.8"), (9.96, "10"), (1234.0, "1234"), (0.5, "0.50")])
    def test_times(self, ratio, text):
        assert times(ratio) == text


def test_a_simulated_frame_beside_two_gpus(tmp_path):
    compiled = compile_source(find("bicubic_x2"), "tiny", FrameChoice((23, 17)))
    result = simulate(compiled, backend="reference")
    made, pictures = compare_targets(result, ["H200", "Orin"], command="the command", results=tmp_path)
    assert [row.kind for row in made.rows] == ["asic", "gpu", "gpu"]
    assert made.rows[0].evidence is Evidence.MODEL
    assert made.account.system_j.value > made.account.chip_j.value > 0.0
    assert {picture.shape for picture in pictures.values()} == {(34, 46, 3)}
    # The same frame, with a measurement at hand.
    (tmp_path / "gpu").mkdir()
    recorded(tmp_path / "gpu", network=result.network, input_size=result.input_size, output_size=result.output_size)
    measured, _ = compare_targets(result, ["H200"], command="the command", results=tmp_path)
    assert measured.rows[1].evidence is Evidence.HARDWARE
    # Its layers and the machines' limits.
    assert sum(layer.macs for layer in made.layers) == made.macs
    assert sum(layer.busy_cycles for layer in made.layers) == result.counters.busy_cycles
    assert 0.0 < sum(layer.joules.value for layer in made.layers) < made.account.chip_j.value
    assert max(layer.end_cycle for layer in made.layers) <= result.counters.cycles
    chip, *boards = made.rooflines
    assert chip.peak_macs_per_s == pytest.approx(TINY.macs_per_cycle * TINY.clock_hz)
    assert chip.bytes_per_s == pytest.approx(TINY.bus_bytes * TINY.clock_hz)
    for line in (chip, *boards):
        roof = min(line.peak_macs_per_s, line.macs_per_byte * line.bytes_per_s)
        assert 0.0 < line.reached_macs_per_s.high <= 1.0001 * roof, line


def test_a_network_that_does_not_scale_has_no_baseline(tmp_path):
    """Bicubic by 1 is the image itself, and its PSNR infinite, which no figure of a report may be."""
    torch.manual_seed(0)
    net, example = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1)).eval(), torch.rand(1, 3, 17, 23)
    torch.export.save(torch.export.export(net, (example,)), tmp_path / "net.pt2")
    compiled = compile_source(find(tmp_path / "net.pt2"), "tiny", FrameChoice((23, 17)))
    made, _ = compare_targets(simulate(compiled, backend="reference"), ["H200"], command="it", results=tmp_path)
    assert made.quality_db["bicubic"] is None
    assert "quality/bicubic" not in figures(made)
    for decibels in (math.inf, -3.0):
        strange = dataclasses.replace(made, quality_db={"bicubic": decibels, "fp32": None, "int8": 20.0})
        assert {name for name in figures(strange) if name.startswith("quality/")} == {"quality/int8"}
