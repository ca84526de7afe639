"""Studies multiply the cost of a frame; their verdicts follow from the bands alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codesign import networks
from codesign.cli import app as cli
from codesign.energy.account import account
from codesign.energy.gpu import find_device, on_gpu, roofline
from codesign.energy.interval import Interval
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE, TINY
from codesign.studies import film_hour, int8
from codesign.studies.costing import cost, size_in
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find

RESOLUTION = (192, 128)


@pytest.fixture(scope="module")
def study():
    return film_hour.film_hour(
        ["bicubic_x2", "espcn_x4"],
        film_hour.Film(RESOLUTION, 24.0),
        TINY,
        ["A100", "Orin"],
        film_hour.Prices(0.5, 2.0),
        command="the command",
    )


def test_costs_are_those_of_the_trained_network() -> None:
    """Neither cycles nor bytes depend on the weights' values or on the calibration."""
    costing = cost("espcn_x3", (48, 32), BASE)
    compiled = compile_source(find("espcn_x3"), BASE, FrameChoice((48, 32)))
    result = simulate(compiled, backend="reference")
    assert costing.counters == result.counters
    assert costing.workload.macs == result.macs
    assert costing.workload.compulsory_values == result.compulsory_bytes
    assert costing.host_mac_share == 0.0
    assert costing.output_size == (144, 96)


def test_large_frames_of_networks_that_know_their_size_are_multiplied(monkeypatch) -> None:
    from codesign.studies import costing as module

    whole = cost("spynet", (256, 192), BASE)
    monkeypatch.setattr(module, "WHOLE_FRAME_PIXELS", 128 * 96)
    scaled = cost("spynet", (256, 192), BASE)
    assert whole.modelled_size == (256, 192)
    assert scaled.modelled_size == (128, 96)
    assert scaled.output_size == (256, 192)
    assert scaled.workload.macs == pytest.approx(whole.workload.macs, rel=0.01)
    # A quarter of the frame has a quarter of the work but all of the starts, of warps' windows as well.
    assert scaled.counters.cycles == pytest.approx(whole.counters.cycles, rel=0.06)


def test_an_hour_is_its_frames(study) -> None:
    assert study.film.frames == 24 * 3600
    for hour in study.networks:
        assert hour.costing.output_size == RESOLUTION
        assert hour.costing.input_size == size_in(hour.costing.network, RESOLUTION)
        chip, *gpus = hour.bills
        bill = account(hour.costing.counters, TINY)
        assert chip.kwh.value == pytest.approx(bill.system_j.value * study.film.frames / 3.6e6)
        assert chip.device_hours.value == pytest.approx(hour.costing.seconds * study.film.frames / 3600)
        for one, name in zip(gpus, study.gpus, strict=True):
            figures = on_gpu(hour.costing.workload, name)
            assert one.kwh.high == pytest.approx(figures.joules.high * study.film.frames / 3.6e6)
            assert one.device_hours.low == pytest.approx(figures.seconds.low * study.film.frames / 3600)


def test_ratios_and_the_share_at_which_five_times_holds(study) -> None:
    for hour in study.networks:
        for row in hour.against:
            device = find_device(row.device)
            figures = roofline(hour.costing.workload, device)
            assert row.as_is.value == pytest.approx(figures.joules.value / hour.account.system_j.value)
            assert row.iso_node_at == film_hour.nearest_node(device.node)
            iso = account(hour.costing.counters, TINY, node=row.iso_node_at)
            assert row.iso_node.high == pytest.approx(figures.joules.high / iso.system_j.low)
            # At that share of the roofline, idle power x time makes up the difference to five times.
            ideal = figures.seconds.value * film_hour.constant("gpu_peak_share", "dimensionless").value
            joules = figures.joules_above_idle.value + device.idle_w.value * ideal / row.holds_below_share
            if row.holds_below_share < 1.0:
                assert joules == pytest.approx(5.0 * hour.account.system_j.value)
            else:
                assert joules >= 5.0 * hour.account.system_j.value


@pytest.mark.parametrize(
    ("band", "judged"),
    [((6, 5, 9), "holds"), ((6, 4.9, 9), "open"), ((4, 3, 5), "open"), ((4, 3, 4.9), "fails")],
    ids=str,
)
def test_a_claim_is_judged_by_its_band(band, judged) -> None:
    assert film_hour._judged(Interval(*map(float, band)), 5.0) == judged


def test_the_claimed_hours_as_macs() -> None:
    """The inverse: a network with this number of MACs takes 500 hours."""
    macs = film_hour.macs_of_claim("A100", 24.0)
    share = film_hour.constant("gpu_peak_share", "dimensionless")
    for bound in ("value", "low", "high"):
        seconds = getattr(macs, bound) * 2.0 / (312e12 * getattr(share, bound))
        assert seconds * 24.0 == pytest.approx(500.0)
    assert film_hour.diffusion_macs((512, 512)) == 50 * 566e9


def test_film_hour_as_json(study) -> None:
    data = json.loads(json.dumps(film_hour.to_json(study), allow_nan=False))
    assert data["frames"] == 86400
    assert data["command"] == "the command"
    assert [one["network"] for one in data["networks"]] == ["bicubic_x2", "espcn_x4"]
    for one in data["networks"]:
        chip, a100, _ = one["targets"]
        assert chip["kind"] == "asic"
        assert chip["rent_cost"] is None
        assert chip["chip_kwh"]["value"] < chip["kwh"]["value"]
        assert a100["energy_cost"]["value"] == pytest.approx(0.5 * a100["kwh"]["value"])
        assert a100["rent_cost"]["value"] == pytest.approx(2.0 * a100["device_hours"]["value"])
        assert all(target["energy_evidence"] == "modelled" and target["records"] for target in one["targets"])
    assert len(data["verdicts"]) == 4
    assert all("it fails for every network" in text for text in data["verdicts"][:2])


def test_bad_questions() -> None:
    film, prices = film_hour.Film((64, 64), 24.0), film_hour.Prices(0.1)
    for network, text in (("espcn_x3", "not divisible by the scale 3"), ("no_such_net", "unknown network")):
        with pytest.raises(InputError, match=text):
            film_hour.film_hour([network], film, TINY, ["A100"], prices)
    with pytest.raises(InputError, match="frames a second"):
        film_hour.Film((64, 64), 0.0)
    with pytest.raises(InputError, match="price is negative"):
        film_hour.Prices(-0.1)
    with pytest.raises(InputError, match="unknown GPU"):
        film_hour.film_hour(["espcn_x2"], film, TINY, ["B9000"], prices)


@pytest.fixture(scope="module")
def precisions():
    return int8.int8_study(["sesr_m5_x2", "espcn_x2"], (96, 64), TINY, "RTX4090")


def test_int8_s_speed_and_energy(precisions) -> None:
    for row in precisions.rows:
        device = find_device("RTX4090")
        half = roofline(row.costing.workload, device, "FP16")
        whole = roofline(row.costing.workload, device, "INT8")
        assert (row.fp16.precision, row.int8.precision) == ("FP16", "INT8")
        assert row.speedup.value == pytest.approx(half.seconds.value / whole.seconds.value)
        assert row.energy_ratio.value == pytest.approx(half.joules.value / whole.joules.value)
        assert row.energy_ratio.low <= row.energy_ratio.value <= row.energy_ratio.high
        # Half the bytes at least, four times the operations at most.
        assert 2.0 <= row.speedup.value <= device.peak_int8_tops / device.peak_fp16_tflops
        assert not row.measured


def test_int8_s_loss(precisions) -> None:
    trained, seeded = (row.loss for row in precisions.rows)
    assert trained.fp32_db > 30.0
    assert abs(trained.fp16_db - trained.fp32_db) < 0.02
    assert 0.0 < trained.lost_db < 0.3
    assert (seeded.fp32_db, seeded.fp16_db, seeded.int8_db, seeded.lost_db) == (None,) * 4
    for loss in (trained, seeded):
        assert 20.0 < loss.int8_over_fp32_db < loss.fp16_over_fp32_db
    assert "sesr_m5_x2 loses" in precisions.verdict
    data = json.loads(json.dumps(int8.to_json(precisions), allow_nan=False))
    assert data["networks"][1]["quality_db"] == {"fp32": None, "fp16": None, "int8": None}


def test_half_precision_rounds_every_layer() -> None:
    """The result is close to torch's half-precision arithmetic, which rounds sums too."""
    compiled = compile_source(find("espcn_x2"), TINY, FrameChoice((32, 24)))
    half = int8.run_half(compiled)
    module = networks.load("espcn_x2").half()
    with torch.no_grad():
        torchs = module(torch.from_numpy(compiled.frame.tensor).half()).float().numpy()
    full = networks.load("espcn_x2")(torch.from_numpy(compiled.frame.tensor)).numpy()
    assert 0.0 < np.abs(half - full).max() < 0.01
    assert np.abs(half - torchs).max() < 0.01
    assert next(compiled.source.module.parameters()).dtype == torch.float32


def test_commands(tmp_path) -> None:
    for arguments in (
        ["film-hour", "bicubic_x2", "--resolution", "128x96", "--accel", "tiny", "--gpu", "A100"],
        ["int8", "bicubic_x2", "--size", "64x48", "--accel", "tiny"],
    ):
        result = CliRunner().invoke(cli.app, ["study", *arguments])
        assert result.exit_code == 0, result.output
        assert "bicubic_x2" in result.output
        assert max(len(line) for line in result.output.splitlines()) <= 80
        target = tmp_path / "study.json"
        result = CliRunner().invoke(cli.app, ["study", *arguments, "--json", str(target)])
        assert result.exit_code == 0, result.output
        assert json.loads(target.read_text())["schema"].startswith("codesign.")
