"""The test suite's options for benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", default=None, help="folder with images for the quality figures")


@pytest.fixture
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given with ``--data``; skips without it, fails if it is empty."""
    option = request.config.getoption("--data")
    if option is None:
        pytest.skip("needs --data DIR")
    folder = Path(str(option))
    if not folder.is_dir() or not any(folder.iterdir()):
        pytest.fail(f"--data {folder} is missing or empty")
    return folder
