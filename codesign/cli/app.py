"""``python -m codesign``: every command, and what becomes of errors."""

from __future__ import annotations

import sys

import typer

from codesign.cli import comparing, compiling, restoring, silicon, simulating, study
from codesign.cli.console import err, fail
from codesign.hw.errors import CodesignError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="What would an image network cost on a GPU, and on silicon of its own?",
)  # fmt: skip

for commands in (compiling, simulating, comparing, restoring, silicon):
    app.add_typer(commands.app)
app.add_typer(study.app, name="study")


def main() -> None:
    """Run the command line; known errors become one message and exit code 1, ``--debug`` shows the traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="python -m codesign", standalone_mode=True)
    except CodesignError as error:
        if debug:
            raise
        fail(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted; nothing was left half written")
        raise SystemExit(130) from None
    except OSError as error:
        if debug:
            raise
        fail(error)
        raise SystemExit(1) from None
