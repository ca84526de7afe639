"""The folder of recorded measurements."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
"""Measurements in a source tree, with folders ``gpu`` and ``fpga``; an installed package has none of its own."""
