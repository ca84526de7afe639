"""Random networks from torch to RTL on all machines of the pool; failures found by ``make soak`` stay here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from whole_networks import POOL, REGRESSIONS, NetworkDraw, check, network_draws

from codesign.sim import run as simulation


@pytest.fixture(autouse=True)
def fail_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without progress is reported sooner than for a user."""
    monkeypatch.setattr(simulation, "_HANG_CYCLES", 200_000)


@pytest.mark.timeout(900)  # the first build of a model takes a minute or more
@pytest.mark.parametrize("accel", POOL)
def test_random_networks(accel: str) -> None:
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(network_draws((accel,)))
    def some(draw: NetworkDraw) -> None:
        check(draw)

    some()


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.json")), ids=lambda path: path.stem)
def test_regressions(path) -> None:
    check(NetworkDraw.from_json(path.read_text()))
