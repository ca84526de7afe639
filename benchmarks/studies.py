"""Record the studies: ``make bench-studies DATA=DIR`` writes ``benchmarks/results/film_hour.json``, ``int8.json``,
``temporal.json`` and ``stabilise.json``.

Nothing is timed: cycles, bytes and decibels are the same on every machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

from codesign.hw.spec import BASE
from codesign.studies import film_hour, int8
from codesign.studies.clips import flow_by, from_folder, moving_camera
from codesign.studies.stabilise import shaken, stabilise
from codesign.studies.temporal import temporal

RESULTS = Path(__file__).parent / "results"
COMMAND = "make bench-studies DATA=DIR"
GPUS = ("H200", "A100", "RTX4090", "Orin")


def write(name: str, study: dict[str, Any]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    data = {"date": datetime.date.today().isoformat(), "commit": commit, **study}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    print(f"Wrote {RESULTS / name}.json")


def motion(data: Path | None) -> None:
    """Flicker and jitter with the shipped flow network, and with the published SpyNet if ``data`` has it."""
    clips = {"photograph": moving_camera((192, 128))}
    flows = {"flow_small": flow_by("flow_small", None)}
    if data is not None:
        clips["film"] = dataclasses.replace(from_folder(data / "clip", None), source="Sintel")
        flows["spynet"] = flow_by("spynet", data / "weights" / "spynet_sintel_final.npz")
    rows = []
    for clip in clips.values():
        for name, flow in flows.items():
            print(f"flicker: {clip.source}, {name}")
            rows.append(temporal(clip, flow, name).to_json())
    write("temporal", {"command": COMMAND, "rows": rows})
    camera, even = shaken((256, 192), 40, 4.0)
    rows = []
    for name, flow in flows.items():
        print(f"jitter: {name}")
        rows.append(stabilise(camera, even, 4.0, flow, name)[0].to_json())
    write("stabilise", {"command": COMMAND, "rows": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with weights/ and clip/")
    parser.add_argument("--only", choices=("cost", "motion"), help="cost (film hour, INT8) or motion (flicker, jitter)")
    options = parser.parse_args()
    if options.only != "cost":
        motion(options.data)
    if options.only == "motion":
        raise SystemExit
    weights = {} if options.data is None else {"srvgg16_x4": options.data / "weights" / "realesr_animevideov3_x4.npz"}
    command = "make bench-studies" + (" DATA=DIR" if weights else "")
    hour = film_hour.film_hour(
        (), film_hour.Film((3840, 2160), 24.0), BASE, GPUS, film_hour.Prices(0.25), command=command, say=print
    )
    write("film_hour", film_hour.to_json(hour))
    precisions = int8.int8_study((), (1280, 720), BASE, "H200", weights=weights, command=command, say=print)
    write("int8", int8.to_json(precisions))
