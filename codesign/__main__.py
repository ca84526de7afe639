"""``python -m codesign``."""

from codesign.cli.app import main

main()
