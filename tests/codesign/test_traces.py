"""Every figure of a report can be computed again from the report's own data and the tables it names.

Figures are drawn at random: the seed is in the message of a failure.
"""

from __future__ import annotations

import contextlib
import html.parser
import json
import random
import time

import pytest

from codesign.energy.account import account, layer_energy
from codesign.energy.gpu import Layer, Workload, on_gpu
from codesign.energy.interval import Interval, engineering
from codesign.energy.memory import macro_energy
from codesign.energy.records import constant, records
from codesign.hw.counters import Counters, LayerCounters
from codesign.hw.spec import AccelSpec
from codesign.report import write_report
from codesign.workflows.compare import compare_targets
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find

DRAWN = 12
MEASURED = {
    "network": "sesr_m5_x2",
    "input_size": "48x32",
    "output_size": "96x64",
    "precision": "FP16",
    "batch": 1,
    "device": "A100",
    "device_name": "A100",
    "ms_per_frame": {"value": 0.02, "low": 0.019, "high": 0.022},
    "j_per_frame": {"value": 0.004, "low": 0.0035, "high": 0.005},
    "idle_w": 60.0,
    "loop_seconds": 20.0,
    "loops": 3,
    "sm_clock_mhz": 1410.0,
    "memory_clock_mhz": 1593.0,
    "temperature_c": 50.0,
    "driver": "580.1",
    "cuda": "13.0",
    "software": "made up for this test",
    "method": "made up",
    "command": "none",
    "date": "2026-11-25",
    "commit": "0123456789abcdef",
    "quality_db": None,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    (folder / "gpu").mkdir()
    (folder / "gpu" / "a100.json").write_text(json.dumps(MEASURED))
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    """The report's data and its page's text."""
    result = simulate(compile_source(find("sesr_m5_x2"), "tiny", FrameChoice((48, 32))))
    comparison, pictures = compare_targets(result, ["H200", "A100"], command="the command", results=results)
    paths = write_report(comparison, tmp_path_factory.mktemp("report"), pictures)
    return json.loads(paths["data"].read_text()), paths["page"].read_text()


def again(data: dict, path: str, results) -> Interval:
    """The figure ``path`` from the inputs in ``data``."""
    spec, counters = AccelSpec(**data["inputs"]["specification"]), Counters(**data["simulation"]["counters"])
    kind, which, *rest = path.split("/")
    bill = account(counters, spec, node=data["energy"]["node"], dram=data["energy"]["dram"])
    if kind == "energy":
        return next(part.joules for part in bill.components if part.name == which)
    if kind == "cycles":
        return Interval.exact(float({"busy": counters.busy_cycles, **counters.stalls}[which]))
    if kind == "quality":
        return Interval.exact(data["quality_db"][which])
    if kind == "layers":
        layer = data["layers"][int(which)]
        return {
            "utilization": Interval.exact(layer["macs"] / (layer["busy_cycles"] * spec.macs_per_cycle)),
            "energy": layer_energy(LayerCounters(**layer["events"]), spec, node=data["energy"]["node"]),
            "begin": Interval.exact(layer["begin_cycle"] / spec.clock_hz),
            "end": Interval.exact(layer["end_cycle"] / spec.clock_hz),
        }[rest[0]]
    target = data["targets"][int(which)]
    moved = float(counters.dram_read_bytes + counters.dram_write_bytes)
    if target["kind"] == "gpu":
        given = data["inputs"]["workload"]
        work = Workload(**given | {"layers": tuple(Layer(**layer) for layer in given["layers"])})
        gpu = on_gpu(work, target["target"].split(",")[0], sorted((results / "gpu").glob("*.json")))
        seconds, moved = gpu.seconds, work.moved_bytes(gpu.device.l2_bytes).value
        found = {"energy": gpu.joules, "above_idle": gpu.joules_above_idle, "power": gpu.watts}
    else:
        clock_hz = data["rooflines"][int(which)]["peak_macs_per_s"] / spec.macs_per_cycle
        assert target["kind"] == "fpga" or clock_hz == pytest.approx(spec.clock_hz)
        seconds = Interval.exact(counters.cycles / clock_hz)
        found = {"energy": bill.system_j, "chip": bill.chip_j, "power": bill.watts}
    if rest[0] == "quality":
        return Interval.exact(data["quality_db"]["int8" if target["kind"] != "gpu" else "fp32"])
    found |= {
        "time": seconds,
        "fps": Interval.exact(1.0) / seconds,
        "reached": Interval.exact(float(data["macs"])) / seconds,
        "intensity": Interval.exact(data["macs"] / moved),
    }
    return found[rest[0]]


def drawn(data: dict, wanted=lambda figure: True) -> list[tuple[int, str]]:
    """Seeds and paths."""
    seed = time.time_ns() % 10**9
    paths = [path for path, figure in data["figures"].items() if wanted(figure)]
    return [(seed, path) for path in random.Random(seed).sample(paths, min(DRAWN, len(paths)))]


def test_figures_are_computed_again_from_the_report(report, results) -> None:
    data, _ = report
    for seed, path in drawn(data):
        figure, found = data["figures"][path], again(data, path, results)
        for bound in ("value", "low", "high"):
            assert getattr(found, bound) == pytest.approx(figure[bound], rel=1e-9), (seed, path, bound)


def test_what_a_figure_names_exists(report, results) -> None:
    data, _ = report
    assert len(data["figures"]) >= 80
    for path, figure in data["figures"].items():
        assert figure["evidence"] in ("rtl-measured", "modelled", "netlist-measured", "recorded-on-hardware"), path
        assert figure["how"], path
        assert set(figure["counters"]) <= set(data["simulation"]["counters"]), path
        assert set(figure["records"]) <= set(records()), path
        assert all(data["records"][name]["source"] for name in figure["records"]), path
        assert all((results / "gpu" / name).is_file() for name in figure["files"]), path
        if figure["evidence"] == "recorded-on-hardware":
            assert figure["files"] == ["a100.json"] or "quality" in path or "intensity" in path, path


def forget() -> None:
    constant.cache_clear()
    macro_energy.cache_clear()


@contextlib.contextmanager
def another(name: str):
    """The record ``name`` a tenth smaller: no efficiency or share leaves its range."""
    table = records()
    assert isinstance(table, dict)
    before = table[name]
    changed = {bound: 0.9 * getattr(before, bound) for bound in ("value", "low", "high")}
    try:
        table[name] = before.model_copy(update=changed)
        forget()
        yield
    finally:
        table[name] = before
        forget()


def test_a_figure_follows_the_records_it_names_and_no_others(report, results) -> None:
    data, _ = report
    for seed, path in drawn(data, lambda figure: figure["records"]):
        figure = data["figures"][path]
        before = again(data, path, results)
        name = random.Random(seed).choice(figure["records"])
        with another(name):
            after = again(data, path, results)
        assert after != before or before.value == 0.0, (seed, path, name)
        others = sorted(set(records()) - set(figure["records"]))
        for name in random.Random(seed).sample(others, 3):
            with another(name):
                assert again(data, path, results) == before, (seed, path, name)


class Shown(html.parser.HTMLParser):
    """Texts by the path of the figure."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.path: str | None = None

    def handle_starttag(self, tag, attrs):
        self.path = dict(attrs).get("data-figure")

    def handle_data(self, text):
        if self.path is not None:
            self.texts[self.path] = self.texts.get(self.path, "") + text

    def handle_endtag(self, tag):
        self.path = None


def test_the_page_shows_the_figures_of_its_data(report) -> None:
    data, page = report
    shown = Shown()
    shown.feed(page)
    assert len(shown.texts) >= 12
    for path, text in shown.texts.items():
        figure = data["figures"][path]
        value, unit = figure["value"], figure["unit"]
        assert text == (f"{value:.2f} dB" if unit == "dB" else f"{engineering(value)}{unit}"), path
