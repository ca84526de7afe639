"""``python -m codesign``: options in, a table or JSON out; the work is done in :mod:`codesign.workflows`."""

from codesign.cli.app import main

__all__ = ["main"]
