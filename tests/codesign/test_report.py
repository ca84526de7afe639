"""Reports agree with the comparison, need no network, and are written whole or not at all."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from codesign import report
from codesign.compile.importing.check.result import ImportCheck
from codesign.energy.account import Evidence, account
from codesign.energy.gpu import Workload
from codesign.energy.interval import Interval
from codesign.energy.records import records
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE
from codesign.report import SCHEMA, terminal_table, to_json, write_report
from codesign.workflows.compare import Comparison, gpu_row, scanline_row

COMMAND = "python -m codesign compare 'my <net>.onnx' --size 64x48"
EVIDENCE = {evidence.value for evidence in Evidence}


def make(*gpus: str, quality: float | None = 34.5, name: str = 'net <&> "one"') -> Comparison:
    counters = dataclasses.replace(
        Counters(**{field.name: 0 for field in dataclasses.fields(Counters)}),
        cycles=10**6,
        busy_cycles=10**6,
        macs_issued=2048 * 10**6,
        dram_load_read_bytes=10**5,
    )
    bill = account(counters, BASE)
    work = Workload(name, "64x48", "128x96", 10**9, 10**5)
    chip = scanline_row(counters, BASE, bill, evidence=Evidence.RTL, quality_db=quality)
    rows = (chip, *(gpu_row(work, gpu, quality_db=quality) for gpu in gpus))
    check = ImportCheck("torch 2.13.0", (117.0,), frame=(53, 37)).to_json()
    simulation = {"stalls": {"busy": 10**6, **counters.stalls}, "bit_exact": True, "import": check}
    return Comparison(
        name,
        "64x48",
        "128x96",
        10**9,
        rows,
        {"bicubic": 30.0, "fp32": quality, "int8": quality},
        bill,
        simulation,
        COMMAND,
    )


@pytest.fixture(scope="module")
def comparison():
    return make("H200", "A100", "RTX4090", "Orin")


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    pictures = {name: np.full((6, 8, 3), 90, np.uint8) for name in ("bicubic", "restored", "truth")}
    return write_report(comparison, folder, pictures)


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.text += data


@pytest.fixture(scope="module")
def page(written):
    parser = Page()
    parser.feed(written["page"].read_text(encoding="utf-8"))
    return parser


class TestTable:
    @pytest.mark.parametrize("width", [80, 120])
    def test_fits_and_cuts_nothing(self, comparison, width):
        console = Console(file=io.StringIO(), width=width)
        console.print(terminal_table(comparison))
        text = console.file.getvalue()
        assert max(len(line) for line in text.splitlines()) <= width
        assert "…" not in text
        for word in ("Scanline base", "H200, roofline", "rtl-measured", "modelled", "34.50 dB", "1.00 ms a frame"):
            assert word in text
        assert " ".join(comparison.verdict.split()) in " ".join(text.split())

    def test_without_quality(self):
        console = Console(file=io.StringIO(), width=80)
        console.print(terminal_table(dataclasses.replace(make(quality=None), quality_db={"int8": None})))
        assert "No PSNR" in console.file.getvalue()

    def test_recorded_fits_too(self, comparison):
        row = dataclasses.replace(
            comparison.rows[1],
            evidence=Evidence.HARDWARE,
            energy_evidence=Evidence.HARDWARE,
            quality_evidence=Evidence.HARDWARE,
        )
        console = Console(file=io.StringIO(), width=80)
        console.print(terminal_table(dataclasses.replace(comparison, rows=(comparison.rows[0], row))))
        assert console.file.getvalue().count("recorded-on-hardware") == 4  # three figures and the verdict


class TestJson:
    def test_schema(self, written):
        data = json.loads(written["data"].read_text())
        assert data["schema"] == SCHEMA
        assert data["command"] == COMMAND
        assert data["targets"][0]["chip_j_per_frame"]["value"] < data["targets"][0]["j_per_frame"]["value"]
        for target in data["targets"]:
            assert {"fps", "ms_per_frame", "j_per_frame", "watts", "precision", "quality_db"} <= set(target)
            assert target["fps"] * target["ms_per_frame"] == pytest.approx(1e3)
            assert target["evidence"] in EVIDENCE
            assert set(target["evidence_by_figure"].values()) <= EVIDENCE
            for name in ("fps_interval", "ms_per_frame_interval", "j_per_frame", "watts"):
                assert target[name]["low"] <= target[name]["value"] <= target[name]["high"]

    def test_energy_adds_up_and_is_traceable(self, written):
        data = json.loads(written["data"].read_text())
        parts = data["energy"]["components"]
        assert math.fsum(part["joules"]["value"] for part in parts) == pytest.approx(
            data["targets"][0]["j_per_frame"]["value"]
        )
        named = {name for part in parts for name in part["records"]}
        assert named <= set(data["records"])
        assert all(record["source"] for record in data["records"].values())

    def test_without_a_gpu(self):
        data = to_json(make())
        assert data["j_ratio"] is None
        json.dumps(data, allow_nan=False)


class TestPlot:
    def test_is_a_picture_with_every_target(self, written, comparison):
        picture = np.asarray(Image.open(written["comparison.png"]).convert("RGB"))
        assert picture.shape[0] > 600
        assert picture.shape[1] > 1000
        colours = {tuple(pixel) for pixel in picture.reshape(-1, 3)}
        for colour in report.plot.COLOURS[: len(comparison.rows)]:
            assert tuple(bytes.fromhex(colour[1:])) in colours

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_any_magnitude(self, tmp_path, scale):
        one = make()
        rows = (dataclasses.replace(one.rows[0], j_per_frame=Interval.exact(scale)),)
        report.plot.draw(dataclasses.replace(one, rows=rows), tmp_path / "plot.png")
        picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
        above, across = picture.shape[0] * 3 // 4, picture.shape[1] // 6  # the axes, without legend and names
        marker = np.frombuffer(bytes.fromhex(report.plot.COLOURS[0][1:]), np.uint8)
        assert np.all(picture[:above, across:] == marker, axis=-1).sum() > 100


class TestPage:
    def test_verdict_comes_first(self, page, comparison):
        headings = [tag for tag, _ in page.tags if tag in ("h1", "h2", "table")]
        assert headings[:2] == ["h1", "table"]
        assert comparison.verdict in page.text

    def test_fetches_nothing(self, page):
        for tag, attributes in page.tags:
            for name in ("src", "href", "srcset", "data"):
                assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)

    def test_numbers_have_evidence_beside_them(self, page, comparison):
        tags = sum(attributes.get("class") == "tag" for _, attributes in page.tags)
        assert tags >= 4 * len(comparison.rows) + 1  # speed, energy, power, quality; the chip's own energy
        assert "rtl-measured" in page.text
        assert "modelled" in page.text

    def test_reproduces_and_escapes(self, page, written):
        assert COMMAND in page.text
        assert 'net <&> "one"' in page.text
        assert "<net>" not in written["page"].read_text(encoding="utf-8").split("</script>", 1)[1]

    def test_pictures_and_charts_are_inside(self, page):
        pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
        assert len(pictures) == 3 + 2  # side by side, and two under the slider
        assert all(source.startswith("data:image/png;base64,") for source in pictures)
        assert sum("plotly-graph-div" in (attributes.get("class") or "") for _, attributes in page.tags) == 4

    def test_every_constant_is_listed_with_its_source(self, page, comparison):
        for name in comparison.account.records:
            assert name in page.text
            assert records()[name].source in page.text

    def test_a_mismatch_is_not_hidden(self):
        one = make("H200")
        wrong = dataclasses.replace(one, simulation={**one.simulation, "bit_exact": False})
        assert "not to be trusted" in report.page.render_page(wrong, {})


class TestFiles:
    def test_a_missing_folder_is_one_clear_error(self, comparison, tmp_path):
        with pytest.raises(InputError, match="cannot write here"):
            write_report(comparison, tmp_path / "missing")

    def test_a_failure_leaves_the_earlier_report(self, comparison, tmp_path, monkeypatch):
        first = write_report(comparison, tmp_path)
        before = {name: path.read_bytes() for name, path in first.items()}

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
        with pytest.raises(InputError, match="No space left"):
            write_report(comparison, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in first.values()}
        assert first["comparison.png"].read_bytes() == before["comparison.png"]
        assert first["page"].read_bytes() == before["page"]
