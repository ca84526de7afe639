"""Random networks until the time is up: ``make soak MINUTES=60``, and ``SEED=N`` to repeat a run.

A failure is shrunk, printed with its seed, and written to ``tests/regressions``, from where the test suite repeats it.
"""

from __future__ import annotations

import hashlib
import random
import time
import traceback
from typing import Annotated

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from whole_networks import POOL, REGRESSIONS, NetworkDraw, check, network_draws

from codesign.sim import run as simulation

BATCH = 40
"""Networks per seed."""


def main(
    minutes: Annotated[float, typer.Option(help="Duration in minutes.")] = 30.0,
    first: Annotated[int | None, typer.Option("--seed", help="The first seed; random by default.")] = None,
    accel: Annotated[list[str] | None, typer.Option(help="Machines of the pool; all by default.")] = None,
) -> None:
    """Try random networks on the RTL."""
    simulation._HANG_CYCLES = 200_000
    number = random.SystemRandom().randrange(2**31) if first is None else first
    until = time.monotonic() + 60 * minutes
    tried = 0
    while time.monotonic() < until:
        print(f"seed {number}: {tried} networks so far, {max(0.0, until - time.monotonic()) / 60:.1f} minutes left")
        failing = _batch(number, tuple(accel or POOL))
        if failing is not None:
            text = failing.to_json()
            REGRESSIONS.mkdir(exist_ok=True)
            path = REGRESSIONS / f"{failing.accel}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
            path.write_text(text + "\n")
            print(f"FAILED with seed {number}; the smallest network that does is in {path}:\n{text}")
            raise SystemExit(1)
        tried += BATCH
        number += 1
    print(f"{tried} networks agree on every bit.")


def _batch(number: int, accels: tuple[str, ...]) -> NetworkDraw | None:
    """The smallest failing network, or None."""
    last: list[NetworkDraw] = []

    @seed(number)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(network_draws(accels))
    def some(draw: NetworkDraw) -> None:
        try:
            check(draw)
        except Exception:
            last[:] = [draw]
            raise

    try:
        some()
    except Exception:  # Hypothesis runs the smallest failure last
        traceback.print_exc()
        return last[0]
    return None


if __name__ == "__main__":
    typer.run(main)
