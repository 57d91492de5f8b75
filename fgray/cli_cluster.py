"""The commands of `fgray cluster`: Typer wiring only."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import fgray
from fgray import cli_output as show

app = typer.Typer(help="Start, stop and look at the cluster that a file describes.", no_args_is_help=True, rich_markup_mode=None)

ClusterFile = Annotated[str, typer.Argument(help="A cluster file.")]


@app.command("up")
def up(file: ClusterFile) -> None:
    """Start a cluster, or mend one that is half dead; one that runs is left alone.

    \b
    Example:
      fgray cluster up cluster/local-multinode.yaml
    """
    print(fgray.cluster_up(file))


@app.command("down")
def down(file: ClusterFile) -> None:
    """Stop a cluster with everything that runs on it.

    \b
    Example:
      fgray cluster down cluster/local-multinode.yaml
    """
    print(fgray.cluster_down(file))


@app.command("status")
def status(file: ClusterFile) -> None:
    """Show a cluster's nodes, what they are busy with, and what is asked for; exit status 1 where it does not run.

    \b
    Example:
      fgray cluster status cluster/local-multinode.yaml
    """
    if not show.cluster(fgray.cluster_status(file)):
        sys.exit(1)
