"""``python -m codesign``: every command, and how errors are reported."""

from __future__ import annotations

import sys
from typing import Any

import typer
import typer.rich_utils

from codesign.cli import comparing, compiling, restoring, silicon, simulating, study
from codesign.cli.console import err, fail, plain
from codesign.hw.errors import CodesignError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What would an image network cost on a GPU, and on silicon of its own?",
)

for commands in (compiling, simulating, comparing, restoring, silicon):
    app.add_typer(commands.app)
app.add_typer(study.app, name="study")


_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Raised for a wrong option or argument; its text quotes the user's input."""


def main() -> None:
    """Run the command line; known errors become one message and exit code 1, ``--debug`` shows the traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status = app(args=arguments, prog_name="python -m codesign", standalone_mode=False)
        raise SystemExit(status or 0)
    except _UsageError as error:
        error.message = plain(error.message)
        typer.rich_utils.rich_format_error(error)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; nothing was left half written")
        raise SystemExit(130) from None
    except CodesignError as error:
        if debug:
            raise
        fail(error)
        raise SystemExit(1) from None
    except OSError as error:
        if debug:
            raise
        fail(error)
        raise SystemExit(1) from None
