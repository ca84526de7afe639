"""``python -m codesign study NAME``: claims about whole tasks, measured.

A study is a module here with a function that returns a small frozen result, and a command below that prints it.
"""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def study() -> None:
    """Claims about whole tasks, measured: each study says what it ran, on what, and what came out."""
