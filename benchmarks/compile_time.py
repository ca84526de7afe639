"""CPU seconds that the compiler takes from cold, by stage.

    python benchmarks/compile_time.py                 goes on with benchmarks/results/compile_time.json
    python benchmarks/compile_time.py rrdbnet_x4 RCAN these, anew

A network is one of the catalogue, or an architecture of spandrel with its default setting and seeded weights, opened as
the .pth file that it would be published as. Each is compiled in a process of its own, for frames of 64x64. Seconds are
the CPU's, of the process and those that it starts: on a busy machine, seconds of the clock say little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import provenance
import torch

from codesign.compile.importing import model as importing
from codesign.compile.importing.published.restorer import spandrel
from codesign.hw.files import write_text
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find

RESULTS = Path(__file__).parent / "results" / "compile_time.json"
SIZE = (64, 64)
CATALOGUE = ("sesr_m5_x2", "edsr_baseline_x4", "dncnn17", "rrdbnet_x4", "spynet", "rife")
PUBLISHED = ("ESRGAN", "RCAN", "DRUNet", "SPAN", "Compact")

STAGES = {
    "import": "import",
    "quantise": "quantise",
    "partition": "partition and lower",
    "lower": "partition and lower",
}
"""The compiler's stages, by the first word with which each announces itself; others are called so."""


def cpu_seconds() -> float:
    """CPU seconds of this process and of the ended ones that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Watch:
    """CPU seconds by stage; a stage ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._began = "", cpu_seconds()

    def stage(self, name: str) -> None:
        """Begin the stage ``name``."""
        now = cpu_seconds()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._began
        self._stage, self._began = name, now

    def say(self, text: str) -> None:
        """Begin the stage that the compiler announces as ``text``."""
        word = text.split()[0].strip(",")
        self.stage(STAGES.get(word, word))

    def inside(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose calls count as the stage ``name``, within another."""

        def timed(*arguments: Any) -> Any:
            around = self._stage
            self.stage(name)
            found = function(*arguments)
            self.stage(around)
            return found

        return timed


def save(name: str, path: Path) -> None:
    """Write the weights file of spandrel's architecture ``name``, with its default setting and seeded weights."""
    found = spandrel().MAIN_REGISTRY[name].architecture
    (kind,) = (base.__args__[0] for base in type(found).__orig_bases__ if hasattr(base, "__args__"))
    torch.manual_seed(0)
    network = next(iter(typing.get_args(kind) or (kind,)))(
        **({"num_in_ch": 3, "num_out_ch": 3} if name == "SPAN" else {})
    )
    torch.save(network.state_dict(), path)


def measured(name: str) -> dict[str, Any]:
    """The row of one network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pth"
        if name in PUBLISHED:
            save(name, path)
        watch = Watch()
        importing.check_import = watch.inside("check", importing.check_import)
        watch.stage("open")
        source = find(path if name in PUBLISHED else name)
        compiled = compile_source(source, "base", FrameChoice(size=SIZE), say=watch.say)
        watch.stage("build module")
        compiled.network.executable()
        watch.stage("")
    network = compiled.network
    seconds = {stage: round(taken, 2) for stage, taken in watch.seconds.items() if stage}
    return {
        "seconds": seconds,
        "total": round(sum(seconds.values()), 2),
        "regions": len(network.regions),
        "layers": sum(len(region.graph.layers) for region in network.regions),
        "macs": network.macs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.child)))
        return
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"networks": {}}
    for name in options.networks or [one for one in (*CATALOGUE, *PUBLISHED) if one not in record["networks"]]:
        done = subprocess.run([sys.executable, __file__, "--child", name], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.strip()[-1000:]}")
        row = json.loads(done.stdout.strip().splitlines()[-1])
        record["networks"][name] = {**row, "commit": provenance.commit()}
        record |= {
            "command": "python benchmarks/compile_time.py",
            "machine": provenance.machine(),
            "versions": provenance.versions(),
            "size": list(SIZE),
        }
        write_text(RESULTS, json.dumps(record, indent=1) + "\n")
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
