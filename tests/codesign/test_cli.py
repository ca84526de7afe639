"""The command line as users type it: the README's commands, machine-readable output, bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_models import compact, seeded
from skimage import data

ROOT = Path(__file__).resolve().parents[2]


def documented() -> list[str]:
    text = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))))
    return list(dict.fromkeys(re.findall(r"^\.venv/bin/python -m codesign (.+)$", text, re.MULTILINE)))


def test_the_documents_have_commands():
    assert len(documented()) >= 5


@pytest.mark.parametrize("command", documented())
def test_documented_commands_run(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _make_what_is_named(command, tmp_path)
    code, out, err = run(*command.split())
    assert code == 0, err
    assert out.strip()


def _make_what_is_named(command: str, folder: Path) -> None:
    """The files of a user that the documents name: a model and photographs."""
    if "4x-model.pth" in command:
        torch.save(seeded(compact, upscale=4).state_dict(), folder / "4x-model.pth")
        (folder / "photos").mkdir()
        for path in (folder / "photo.png", folder / "photos" / "one.png", folder / "photos" / "two.jpg"):
            Image.fromarray(data.chelsea()[60:84, 100:132]).save(path)


@pytest.mark.parametrize(
    "verb",
    ["networks", "compile", "tune", "simulate", "compare", "restore", "synth", "constants", "area", "calibrate"],
)
def test_help_has_an_example(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Example" in out
    assert f"codesign {verb}" in out.replace("\n", " ")


def test_simulate_prints_what_machines_read(run):
    code, out, _ = run("simulate", "bicubic_x2", "--accel", "tiny", "--size", "23x17", "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert data["bit_exact"] is True
    assert data["mismatches"] == 0
    assert (data["input_size"], data["output_size"]) == ("23x17", "46x34")
    assert data["macs"] == 23 * 17 * 25 * 4
    assert sum(data["stalls"].values()) == data["cycles"]
    assert data["dram_write_bytes"] >= 46 * 34
    assert data["sim_cycles_per_second"] > 0
    assert data["quality_db"] > 20


def test_constants_have_their_sources(run):
    code, out, _ = run("constants", "int8_multiply", "horowitz", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert found["int8_multiply_45nm"]["value"] == 0.2
    assert all(record["source"] and record["unit"] for record in found.values())
    code, out, _ = run("constants", "--node", "7nm")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "Jouppi" in out


def test_area_grows_with_the_machine_and_shrinks_with_the_node(run):
    code, out, _ = run("area", "--accel", "tiny,base", "--node", "28nm,7nm", "--json", "-")
    assert code == 0
    size = {(row["accel"], row["node"]): row["mm2"]["value"] for row in json.loads(out)["rows"]}
    assert size["tiny", "7nm"] < size["tiny", "28nm"] < size["base", "28nm"]
    assert size["base", "7nm"] < size["base", "28nm"]


def test_reference_backend_is_labelled(run):
    code, out, _ = run(
        "simulate", "bicubic_x2", "--accel", "tiny", "--size", "23x17", "--backend", "reference", "--json", "-"
    )
    data = json.loads(out)
    assert code == 0
    assert data["bit_exact"] is None
    assert data["cycles_evidence"] == "modelled"


def test_image_is_truth_and_input_is_fed(run, tmp_path):
    rng = np.random.default_rng(0)
    picture = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 255, (33, 47, 3), dtype=np.uint8)).save(picture)
    code, out, _ = run("simulate", "bicubic_x2", "--accel", "tiny", "--image", str(picture), "--json", "-")
    assert code == 0
    assert json.loads(out)["input_size"] == "23x16"
    saved = tmp_path / "restored.png"
    code, out, _ = run(
        "simulate", "bicubic_x2", "--accel", "tiny", "--input", str(picture), "--save", str(saved), "--json", "-"
    )
    assert code == 0
    data = json.loads(out)
    assert (data["input_size"], data["quality_db"]) == ("47x33", None)
    assert Image.open(saved).size == (94, 66)


def test_a_pt2_file_and_its_qdq_export_agree(run, tmp_path):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3, padding=1))
    saved = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 1, 16, 24),)), saved)
    exported = tmp_path / "net.onnx"
    code, _, err = run("compile", str(saved), "--size", "24x16", "--accel", "tiny", "--export-qdq", str(exported))
    assert code == 0, err
    results = []
    for model in (saved, exported):
        code, out, err = run("simulate", str(model), "--size", "24x16", "--accel", "tiny", "--json", "-")
        assert code == 0, err
        results.append(json.loads(out))
    assert all(result["bit_exact"] for result in results)
    assert results[0]["cycles"] == results[1]["cycles"]


def test_own_images_calibrate_and_fine_tune(run, tmp_path):
    """Fine-tuning changes the network, and keeps it bit-exact and its quality."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for index, size in enumerate(((40, 60, 3), (90, 130, 3))):
        noise = Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))
        noise.resize((4 * size[1], 4 * size[0]), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    results = {}
    for steps in (0, 5):
        exported = tmp_path / f"{steps}.onnx"
        arguments = ("--size", "24x16", "--accel", "tiny", "--images", str(folder), "--finetune", str(steps))
        code, _, err = run("compile", "sesr_m5_x2", *arguments, "--export-qdq", str(exported))
        assert code == 0, err
        code, out, err = run("simulate", "sesr_m5_x2", *arguments, "--json", "-")
        assert code == 0, err
        results[steps] = (exported.read_bytes(), json.loads(out))
    assert results[0][0] != results[5][0]
    assert results[5][1]["bit_exact"] is True
    assert results[5][1]["quality_db"] > results[0][1]["quality_db"] - 0.5


BAD = [
    (["simulate", "sesr_m6_x2"], "unknown network"),
    (["simulate", "bicubic_x2", "--size", "0x4"], "no pixels"),
    (["simulate", "bicubic_x2", "--size", "999999x4"], "too large"),
    (["simulate", "bicubic_x2", "--size", "wide"], "not a size"),
    (["simulate", "bicubic_x2", "--accel", "huge"], "unknown accelerator"),
    (["simulate", "absent.onnx"], "no such file"),
    (["simulate", "bicubic_x2", "--image", "absent.png"], "no such image"),
    (["simulate", "bicubic_x2", "--backend", "guess"], "unknown backend"),
    (["simulate", "sesr_m5_x2", "--weights", "absent.npz"], "no such weights"),
    (["compile", "bicubic_x2", "-o", "/nonexistent/net.so"], "cannot write here"),
    (["compile", "bicubic_x2", "--target", "tpu"], "unknown target"),
    (["compile", "bicubic_x2", "--images", "absent"], "not a folder with images"),
    (["compile", "bicubic_x2", "--method", "best"], "unknown calibration"),
    (["compile", "bicubic_x2", "--dram-bandwidth", "0"], "must be 0.25 to 1024"),
    (["simulate", "bicubic_x2", "--size", "23x17", "--accel", "tiny", "--dram-latency", "0"], "must be 1 to 100000"),
    (["simulate", "bicubic_x2", "--waves", "a.vcd", "--window", "9"], "is not a range of cycles"),
    (["simulate", "bicubic_x2", "--backend", "reference", "--timeline", "a.json"], "are the RTL's"),
    (["simulate", "bicubic_x2", "--waves", "a.vcd", "--checkpoint", "folder"], "cannot be resumed"),
    (["synth", "--target", "asic"], "unknown target"),
    (["synth", "--accel", "huge"], "huge"),
    (["constants", "--node", "3nm"], "no records at"),
    (["constants", "unobtainium"], "no record contains"),
    (["area", "--node", "3nm"], "no area records at 3nm"),
    (["calibrate", "absent.lib"], "cannot be read"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_clear_message(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in out + err


def test_the_plan_explains_itself(run):
    code, out, _ = run("compile", "sesr_m5_x2", "--accel", "tiny", "--size", "320x24", "--explain")
    assert code == 0
    text = " ".join(out.split())
    assert "limited by" in text
    assert "The cascade ends here:" in text
    assert "strips, " in text
    code, out, _ = run("compile", "sesr_m5_x2", "--accel", "tiny", "--size", "320x24", "--json", "-")
    cascades = [cascade for plan in json.loads(out)["plan"] for cascade in plan]
    assert code == 0
    for cascade in cascades:
        assert cascade["scratchpad_bytes"] <= cascade["scratchpad_limit"]
        assert cascade["halo_mode"] in ("none", "recompute", "keep")
        assert (cascade["kept_bytes"] > 0) == (cascade["halo_mode"] == "keep")
    assert any(len(cascade["strips"]) > 1 for cascade in cascades)


def test_an_inconsistent_specification_is_explained(run, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\nco_lanes = 2\n')
    code, _, err = run("simulate", "bicubic_x2", "--accel", str(path))
    assert code == 1
    assert "co_lanes 2 is less than ci_lanes 4" in " ".join(err.split())


def test_corrupt_files_are_named(run, tmp_path):
    for name in ("model.onnx", "model.pt2"):
        path = tmp_path / name
        path.write_bytes(b"not a model")
        code, _, err = run("simulate", str(path))
        assert code == 1
        assert name in err.replace("\n", "")


def test_an_earlier_output_survives_a_failure(run, tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    target.write_text("earlier")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = run("networks", "--json", str(target))
    assert code == 1
    assert "No space left" in " ".join(err.split())
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_the_example_runs():
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "own_network.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "bit-exact: True" in result.stdout
