"""The public verbs on clusters, by the name of their file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fgray.launch.clusters import lifecycle
from fgray.launch.clusters.file import ClusterFile, load_cluster
from fgray.launch.clusters.finding import Finding
from fgray.launch.clusters.lifecycle import ClusterStatus


def cluster_up(file: str) -> str:
    """Start the cluster that a file describes, or mend one that is half dead; return what to tell the user.

    Raises:
        RunError: it does not start.
    """
    return lifecycle.up(load_cluster(file))


def cluster_down(file: str) -> str:
    """Stop a cluster with everything that runs on it; return what to tell the user.

    Raises:
        RunError: it cannot be stopped.
    """
    return lifecycle.down(load_cluster(file))


def cluster_status(file: str) -> ClusterStatus:
    """Return a cluster's nodes, their use, and the demand that has no place yet."""
    return lifecycle.status(load_cluster(file))


@dataclass(frozen=True)
class CheckedCluster:
    """A cluster file and what its checks found.

    Attributes:
        findings: problems first.
    """

    file: ClusterFile
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """How many findings must be mended before the cluster is started."""
        return sum(finding.level == "problem" for finding in self.findings)

    def lines(self) -> list[str]:
        """Return the findings, one line each, after a line that sums them up and says what an hour costs."""
        notes = len(self.findings) - self.problems
        counts = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((self.problems, "problem"), (notes, "note")) if n]
        summary = f"{self.file.path}: {' and '.join(counts) or 'no problem found'}"
        cost, options = self.file.hourly_cost(), self.file.options
        if cost is not None and options.prices:
            source = f" ({options.prices_from})" if options.prices_from else ""
            summary += f"; {cost[0]:.2f} {options.currency} an hour idle, {cost[1]:.2f} with every worker{source}"
        return [summary, *(f"  {finding}" for finding in self.findings)]


def cluster_validate(file: str) -> CheckedCluster:
    """Check a cluster file offline: Ray's own schema, names in the cloud's sections, open doors, missing limits and prices.

    Raises:
        ConfigError: the file cannot be read as a cluster file at all.
    """
    from fgray.launch.clusters.rules import validate

    cluster = load_cluster(file)
    return CheckedCluster(cluster, tuple(validate(cluster)))


def cluster_manifest(file: str, job: str | None = None, overrides: Sequence[str] = ()) -> str:
    """Return the Kubernetes manifests of a cluster file, or of one job (its configuration's path) with a cluster of its own, as YAML.

    Args:
        file: the cluster file.
        job: path of a job's configuration.
        overrides: ``a.b=c`` assignments to it.

    Raises:
        ConfigError: the file describes no Kubernetes cluster, or has problems, or the job cannot run there.
    """
    import yaml

    from fgray.launch.clusters.kuberay import manifests
    from fgray.launch.clusters.rules import refuse_problems

    cluster = load_cluster(file)
    documents = manifests(cluster, job, overrides)
    refuse_problems(cluster)
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=140)
    return text
