"""The commands for jobs on clusters: Typer wiring only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import fgray
from fgray import cli_output as show

app = typer.Typer(rich_markup_mode=None)

JobId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The job; default: the newest.")]
Cluster = Annotated[str | None, typer.Option(metavar="FILE", help="The cluster of a job that was sent from elsewhere.")]


def follow(job: fgray.RemoteJob) -> None:
    """Show what a job writes until it has ended, and exit with its status; an interrupt leaves it to itself."""
    try:
        state = job.follow(_write, lambda line: print(line, file=sys.stderr))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; come back with: fgray logs -f {job.id}    stop it with: fgray stop {job.id}", file=sys.stderr)
        sys.exit(130)
    print(show.job_state(state), file=sys.stderr)
    sys.exit(state.exit_code or 0)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[ID|FOLDER]", help="A job, or a run folder; default: the newest job.")] = None,
    cluster: Cluster = None,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Show it anew until it has ended.")] = False,
) -> None:
    """Say what a job on a cluster, or the run in a folder, does; of a job that has ended, the exit status is its own.

    \b
    Examples:
      fgray status
      fgray status quickstart-20260101-120000-1a2b
      fgray status s3://bucket/runs/spec -f
    """
    if run is None or not ("/" in run or Path(run).is_dir()):
        sys.exit(show.job(fgray.remote_job(run, cluster), follow_).exit_code or 0)
    show.progress(run, follow_)


@app.command()
def logs(
    job: JobId = None,
    cluster: Cluster = None,
    follow_: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended; the exit status is the job's own.")
    ] = False,
) -> None:
    """Show what a job on a cluster has written.

    \b
    Examples:
      fgray logs -f
      fgray logs quickstart-20260101-120000-1a2b
    """
    found = fgray.remote_job(job, cluster)
    if follow_:
        follow(found)
    _write(found.log())


@app.command()
def stop(job: JobId = None, cluster: Cluster = None) -> None:
    """Stop a job on a cluster and wait until it has stopped; what it has committed stays, and `fgray resume` goes on with it.

    \b
    Example:
      fgray stop
    """
    print(show.job_state(fgray.remote_job(job, cluster).stop()))


@app.command()
def resume(
    job: JobId = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for it; `fgray logs -f` picks it up.")] = False,
) -> None:
    """Send a job to its cluster again; it goes on with its run folder, under a new id.

    \b
    Example:
      fgray resume
    """
    sent = fgray.resume(job)
    if detach:
        print(sent.id)
    else:
        follow(sent)


@app.command()
def jobs(cluster: Cluster = None) -> None:
    """List the jobs that were sent from here, or those of a cluster.

    \b
    Examples:
      fgray jobs
      fgray jobs --cluster cluster/local-multinode.yaml
    """
    show.table(fgray.list_jobs(cluster))
