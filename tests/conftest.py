"""Fixtures of all tests: the folder of third-party data, if there is one, and the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# One thread for each worker: small tensors gain nothing from more, and the threads of two workers on two cores wait for
# each other, which takes two to three times the time. The libraries read this when they are loaded.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", metavar="DIR", help="folder with set5/, bsds/ and weights/, for the tests that measure")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given as ``--data``. Without it the test is skipped; with a useless folder it fails."""
    given = request.config.getoption("--data")
    if given is None:
        pytest.skip("needs --data DIR")
    folder = Path(given)
    if not any((folder / name).is_dir() for name in ("set5", "bsds", "weights")):
        pytest.fail(f"--data {folder}: holds none of set5/, bsds/, weights/")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit code, standard output and standard error."""
    from codesign.cli import app

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codesign", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        captured = capfd.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return invoke
