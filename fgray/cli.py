"""The command line: Typer wiring only; every command calls the public verb of the same name."""

from __future__ import annotations

import typer

app = typer.Typer(name="fgray", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def main() -> None:
    """Run the command line."""
    app()
