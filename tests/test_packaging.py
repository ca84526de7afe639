"""A wheel built from the tree works outside it: RTL, harness, tables and weights travel along."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CHECK = """
import sys, codesign, codesign.hw, codesign.energy.records as records
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find
assert codesign.hw.__file__.startswith(sys.argv[1]), codesign.hw.__file__
assert records.records()
try:
    import sim
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("a bare `import sim` must fail")
result = simulate(compile_source(find("sesr_m5_x2"), "tiny", FrameChoice(size=(16, 12))))
assert result.bit_exact and result.quality_db is not None
print("works", result.counters.cycles)
"""


def test_the_wheel_compiles_and_simulates(tmp_path):
    wheels, target, elsewhere = (tmp_path / name for name in ("wheels", "target", "elsewhere"))
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)], check=True
    )
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(target)],
        cwd=elsewhere,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("works")


def test_the_suite_takes_a_folder_of_data(tmp_path: Path) -> None:
    """As README has it. Written apart, pytest looks for its settings in that folder and knows no --data."""
    shown = subprocess.run(
        ["make", "-n", "pytest", f"DATA={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    command = next(line for line in shown.splitlines() if "-m pytest" in line)
    arguments = shlex.split(command)[1:]
    asked = [sys.executable, *arguments, "--markers"]
    assert subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0
