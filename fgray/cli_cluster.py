"""The commands of `fgray cluster`: Typer wiring only."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import fgray
from fgray import cli_output as show

app = typer.Typer(help="Check, start, stop and look at the cluster that a file describes.", no_args_is_help=True, rich_markup_mode=None)

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


@app.command("validate")
def validate(files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Cluster files.")]) -> None:
    """Check cluster files without asking any network: exit status 1 where a problem is found; notes do not count.

    Ray's own schema, names inside `provider` and `node_config`, open ports, authentication, images, maxima, prices, disks, secrets.

    \b
    Example:
      fgray cluster validate cluster/*.yaml
    """
    checked = [fgray.cluster_validate(file) for file in files]
    for each in checked:
        print("\n".join(each.lines()))
    if any(each.problems for each in checked):
        sys.exit(1)


@app.command("manifest")
def manifest(
    file: ClusterFile,
    job: Annotated[str | None, typer.Option(metavar="CONFIG", help="A RayJob of this configuration, with a cluster of its own.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a value of it. Repeatable.")] = None,
) -> None:
    """Print the Kubernetes manifests (KubeRay) of a cluster file, or of one job.

    \b
    Examples:
      fgray cluster manifest cluster/kuberay.yaml | kubectl apply -f -
      fgray cluster manifest cluster/kuberay.yaml --job configs/eval/s3.yaml --set limit=100 | kubectl replace --force -f -
    """
    print(fgray.cluster_manifest(file, job, overrides or ()), end="")
