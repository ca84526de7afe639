"""Every assertion of the RTL seen to fail: faults injected into its signals, searched for and replayed.

    python tests/sim/rtl_faults.py                   replay what is recorded, and say what no longer fires
    python tests/sim/rtl_faults.py --search SECONDS  search for faults of the assertions that have none yet

A fault holds some bits of one signal of the design for a few cycles of a program. The record holds for each assertion
the fault that let it fail, and in which cycle: benchmarks/results/rtl_faults.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from layer_graphs import SMALL, GraphDraw, LayerDraw, build, random_inputs
from numpy.typing import NDArray

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.files import write_text
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.sim import faults
from codesign.sim.faults import Assertion, Fault, module_of, noticed
from codesign.sim.model import Dram, Failure, Model

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "rtl_faults.json"
AFTER = 2000
"""Cycles for which a run goes on behind its fault."""

_PLAIN = LayerDraw(3, 1, 6, "linear", "none", True, False, 0, 1)
_NORM = dataclasses.replace(_PLAIN, activation="relu", norm=True)
DRAWS = {
    "convolutions": SMALL,
    "stalls": SMALL,
    "tables": GraphDraw(5, 9, 3, (_PLAIN, dataclasses.replace(_PLAIN, activation="table")), 5),
    "wide windows": GraphDraw(9, 13, 6, (dataclasses.replace(_PLAIN, kernel=7),) * 2, 5),
    "warps": GraphDraw(7, 13, 3, (_PLAIN, dataclasses.replace(_PLAIN, warp=True, edge=True), _PLAIN), 5),
    "resizes": GraphDraw(5, 11, 3, (_PLAIN, dataclasses.replace(_PLAIN, enlarge=2), _PLAIN), 6),
    "windows": GraphDraw(5, 11, 3, (_PLAIN, dataclasses.replace(_PLAIN, window=2), _PLAIN), 5),
    "correlations": GraphDraw(7, 13, 6, (_PLAIN, dataclasses.replace(_PLAIN, kernel=1, correlate=2), _PLAIN), 6),
    "normalisations": GraphDraw(7, 11, 3, (_PLAIN, _NORM, _PLAIN), 12),
    "layer norms of one": GraphDraw(
        5, 9, 3, (dataclasses.replace(_PLAIN, channels=1), dataclasses.replace(_PLAIN, layer_norm=True), _PLAIN), 5
    ),
    "layer norms": GraphDraw(5, 23, 3, (_PLAIN, dataclasses.replace(_PLAIN, layer_norm=True), _PLAIN), 5),
}

DRAMS = {"stalls": Dram(stall_probability=0.5)}
"""Buses on which handshakes wait, for the programs run on them."""

USED_BY = {
    "scanline_sampler": ("warps", "resizes"),
    "scanline_layer_norm": ("layer norms", "layer norms of one"),
    "scanline_row_units": ("warps", "windows", "layer norms"),
    "scanline_window": ("windows",),
    "scanline_window_walker": ("windows",),
    "scanline_normaliser": ("normalisations",),
    "scanline_channel_statistics": ("normalisations",),
}
"""Programs that use a module which others leave idle."""


@cache
def ready(name: str) -> tuple[Program, NDArray[np.uint8]]:
    """A program, and its memory before the run."""
    graph = build(DRAWS[name])
    program = emit(make_plan(faults.MACHINE, graph))
    return program, np.array(reference.initial_memory(program, random_inputs(graph, DRAWS[name].seed)))


@cache
def shape(name: str) -> tuple[int, dict[tuple[str, str], int]]:
    """The cycles of a program without a fault, and the signals that can be held."""
    program, memory = ready(name)
    with Model(faults.MACHINE, program.memory_bytes, dram=DRAMS.get(name), variant=faults.variant()) as model:
        model.load(program)
        model.memory[:] = memory
        started = model.cycle
        model.start()
        assert model.run(10**6), "the program does not end"
        return model.cycle - started, model.forceable()


def failures(name: str, fault: Fault | None, after: int = AFTER) -> tuple[Failure, ...]:
    """The assertions that fail in a program's run, in order."""
    return noticed(*ready(name), fault, after=after, dram=DRAMS.get(name))


def guesses(wanted: list[Assertion], rng: random.Random) -> Iterator[tuple[str, Fault]]:
    """Faults without end: of signals that an assertion without a fault speaks of, or of any."""
    while True:
        aim = rng.choice(wanted)
        name = rng.choice(USED_BY.get(aim.module, tuple(DRAWS)))
        cycles, signals = shape(name)
        near = [one for one in signals if module_of(one[0]) == aim.module]
        spoken = [one for one in near if one[1] in aim.words or one[1].removesuffix("_o") + "_i" in aim.words]
        instance, signal = rng.choice(
            rng.choice([spoken or near or list(signals), near or list(signals), list(signals)])
        )
        width = signals[instance, signal]
        bits = rng.choice([1, min(width, 4), min(width, 16), min(width, 64)])
        first = rng.randrange(width - bits + 1)
        value = rng.choice([0, 2**bits - 1, rng.getrandbits(bits)])
        yield (
            name,
            Fault(instance, signal, first, bits, value, rng.randrange(20, cycles), rng.choice([1, 1, 2, 5, 40, 400])),
        )


def search(known: dict[str, Any], seconds: float, seed: int) -> None:
    """Fill ``known`` with a fault for every assertion that has none, as far as they are found in time."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    every = {f"{one.module}.{one.name}": one for one in faults.assertions()}
    for tries, (name, fault) in enumerate(guesses(list(every.values()), rng)):
        missing = [one for key, one in every.items() if key not in known]
        if not missing or time.monotonic() > end:
            return
        if tries % 4:  # the others find what nobody aims at
            name, fault = next(guesses(missing, rng))
        for failure in failures(name, fault):
            key = f"{module_of(failure.instance)}.{failure.assertion}"
            if key in every and key not in known:
                known[key] = entry(name, fault, failure.instance, failure.cycle)
                print(len(known), key, flush=True)
                save(known)


def entry(name: str, fault: Fault, instance: str, cycle: int) -> dict[str, Any]:
    return {"program": name, "fault": dataclasses.asdict(fault), "fires_in": instance, "cycle": cycle}


def replay(kept: dict[str, Any]) -> int | None:
    """The cycle in which a recorded fault lets its ``assertion`` fail in ``fires_in``; None when it does not."""
    for failure in failures(kept["program"], Fault(**kept["fault"])):
        if (failure.instance, failure.assertion) == (kept["fires_in"], kept["assertion"]):
            return failure.cycle
    return None


def load() -> dict[str, Any]:
    return dict(json.loads(RECORD.read_text())["assertions"]) if RECORD.exists() else {}


def save(known: dict[str, Any]) -> None:
    known |= {key: kept for key, kept in load().items() if key not in known}  # of a search beside this one
    every = sorted(f"{one.module}.{one.name}" for one in faults.assertions())
    record = {
        "command": "python tests/sim/rtl_faults.py --search 600",
        "machine": faults.MACHINE.to_dict(),
        "counts": {"assertions": len(every), "seen to fail": len(known)},
        "without a fault": [key for key in every if key not in known],
        "assertions": dict(sorted(known.items())),
    }
    write_text(RECORD, json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=float, metavar="SECONDS", help="search for faults that are missing")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    known = load()
    if options.search:
        search(known, options.search, options.seed)
        save(known)
        return
    silent = [key for key, kept in known.items() if replay({**kept, "assertion": key.split(".")[1]}) != kept["cycle"]]
    print("\n".join(silent) or f"all {len(known)} fire in the recorded cycles")
    raise SystemExit(bool(silent))


if __name__ == "__main__":
    main()
