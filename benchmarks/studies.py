"""Record the studies: ``make bench-studies DATA=DIR`` writes ``benchmarks/results/film_hour.json`` and ``int8.json``.

Nothing of it is timed: cycles, bytes and decibels are the same on every machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

from codesign.hw.spec import BASE
from codesign.studies import film_hour, int8

RESULTS = Path(__file__).parent / "results"
GPUS = ("H200", "A100", "RTX4090", "Orin")


def write(name: str, study: dict[str, Any]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    data = {"date": datetime.date.today().isoformat(), "commit": commit, **study}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    print(f"Wrote {RESULTS / name}.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with weights/ for the quality of SRVGG")
    options = parser.parse_args()
    weights = {} if options.data is None else {"srvgg16_x4": options.data / "weights" / "realesr_animevideov3_x4.npz"}
    command = "make bench-studies" + (" DATA=DIR" if weights else "")
    hour = film_hour.film_hour((), (3840, 2160), 24.0, BASE, GPUS, price_kwh=0.25, command=command, say=print)
    write("film_hour", film_hour.to_json(hour))
    precisions = int8.int8_study((), (1280, 720), BASE, "H200", weights=weights, command=command, say=print)
    write("int8", int8.to_json(precisions))
