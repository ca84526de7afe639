"""Bounds of what a model's file may cost, known before it is read."""

from __future__ import annotations

from pathlib import Path

MAX_WEIGHT_BYTES = 2**30

COPIES = 6
"""Times the weights' bytes that importing and compiling a network takes at most."""

MAX_RATIO = 64
"""torch stores archives uncompressed; a member that shrank more than this is no weight."""


MAX_PARTS = 20_000
"""Operators, or stored tensors, of a network. The deepest published ones have a few thousand."""

MIN_VALUES, VALUES_PER_PIXEL = 2**28, 2**14
"""Values that any tensor may have, and for large frames those for each pixel: 1024 channels at four times the size."""


def most_values(width: int, height: int) -> int:
    """Values that a tensor of a network for frames of this size may have: more is a mistake or an attack."""
    return max(MIN_VALUES, VALUES_PER_PIXEL * width * height)


def free_memory() -> int:
    """Bytes that may be taken: what the system calls available, or a control group's limit leaves."""
    free = MAX_WEIGHT_BYTES * COPIES
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = min(free, 1024 * int(lines["MemAvailable"].split()[0]))
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError, KeyError):
        pass
    return max(free, 0)
