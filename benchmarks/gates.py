"""Gates of the presets, counted in their RTL: ``python benchmarks/gates.py`` → ``results/gates.json``, ten minutes.

``codesign/energy/area.py`` estimates them from the specification; ``tests/codesign/test_energy.py`` holds the estimate
against these.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from codesign.hw.files import write_text
from codesign.hw.spec import PRESETS
from codesign.sim.silicon.synthesis import synthesise

RESULTS = Path(__file__).parent / "results" / "gates.json"


def main() -> None:
    found = {}
    for name, spec in PRESETS.items():
        counted = synthesise(spec)
        gates, flip_flops = (sum(getattr(one, what) for one in counted.modules) for what in ("gates", "flip_flops"))
        found[name] = {"gates": gates, "flip_flops": flip_flops}
        print(f"{name}: {gates:,.0f} gate equivalents, {flip_flops:,} flip-flops")
    record = {"command": "python benchmarks/gates.py", "date": date.today().isoformat(), "tools": dict(counted.tools)}
    write_text(RESULTS, json.dumps(record | {"presets": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
