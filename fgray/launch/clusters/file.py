"""Reads a cluster file: Ray's own cluster format, with what fgray adds under `provider.fgray`.

`ray up FILE` takes the same file, so variables are not resolved here either: Ray does not know ``${NAME}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgray.config.explain import explain
from fgray.config.loading import unreadable
from fgray.config.schema import Section
from fgray.config.source import Path as Keys
from fgray.config.source import Source, parse_yaml, plain
from fgray.errors import ConfigError, did_you_mean

DEFAULT_MAX_WORKERS = 2
"""What Ray takes where a file states no maximum (its aws and gcp defaults)."""

_SPOT_LABELS = {  # node labels by which Kubernetes services mark interruptible nodes
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
_MACHINE_KEYS = ("InstanceType", "machineType", "nodeSelector", "guestAccelerators", "InstanceMarketOptions", "scheduling")
_MACHINE_LABELS = ("node.kubernetes.io/instance-type", "karpenter.k8s.aws/instance-type")


class Price(Section):
    """What one machine costs per hour."""

    on_demand: float = Field(ge=0, description="price per hour, uninterrupted")
    spot: float | None = Field(None, ge=0, description="price per hour of interruptible capacity")


MOST_UPLOAD_MIB = 95  # Ray's dashboard takes 100 MiB at most; file names and checksums come on top


class FgrayOptions(Section):
    """What fgray wants to know of a cluster that Ray's own format has no place for (`provider.fgray`)."""

    prices: dict[str, Price] = Field(
        default_factory=dict, description="machine (InstanceType, machineType) or node type -> {on_demand: …, spot: …} per hour"
    )
    currency: str = Field("USD", description="currency of the prices")
    prices_from: str | None = Field(None, description="region and day of the prices, as plan and status shall name them")
    s3_gbps: float | None = Field(None, gt=0, description="gigabits per second that one node reads from S3, for the plan")
    dependencies: Literal["install", "image"] = Field(
        "install", description="install: a job's pinned packages are installed on every node; image: the nodes' image has them"
    )
    address: str | None = Field(
        None,
        pattern=r"^https?://[^/@\s]+/?$",
        description="address of the dashboard of a cluster that already runs, e.g. http://127.0.0.1:8265",
    )
    shared_folders: list[Annotated[str, Field(pattern="^/")]] = Field(
        default_factory=list,
        description="folders that this machine and all nodes see under the same path, e.g. /mnt/efs; paths in them stay as they are",
    )
    upload_mib: int = Field(
        MOST_UPLOAD_MIB, ge=1, le=MOST_UPLOAD_MIB, description="most MiB that may travel with a job; larger data and weights belong into S3"
    )


class _NodeType(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict, description="e.g. {CPU: 4, GPU: 1}")
    node_config: dict[str, Any] = Field(default_factory=dict, description="the machine, in the provider's own terms")
    min_workers: int = Field(0, ge=0, description="workers of this type that always run")
    max_workers: int | None = Field(None, ge=0, description="most workers of this type")


class _Provider(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="aws, gcp, kuberay, external or local")
    fgray: FgrayOptions = Field(default_factory=FgrayOptions, description="what fgray adds to Ray's format")


class _Cluster(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    cluster_name: str = Field(min_length=1, description="a name of its own for this cluster")
    provider: _Provider = Field(description="where the nodes come from, e.g. {type: aws, region: us-west-2}")
    available_node_types: dict[str, _NodeType] = Field(min_length=1, description="name -> resources, node_config, min_workers, max_workers")
    head_node_type: str = Field(description="which of available_node_types the head is")
    max_workers: int = Field(DEFAULT_MAX_WORKERS, ge=0, description="most workers of all types together")


@dataclass(frozen=True)
class NodeType:
    """One kind of node.

    Attributes:
        resources: Ray's resources of one node, as stated in the file.
        max_workers: most workers of this type; the head itself is not counted.
        machine: InstanceType, machineType or the instance-type label; None where the file names none.
        spot: whether the node may be taken away.
        price: of one hour of one node, in the file's currency; None where it is not stated.
    """

    name: str
    head: bool
    resources: Mapping[str, float]
    min_workers: int
    max_workers: int
    machine: str | None
    spot: bool
    price: float | None


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file.

    Attributes:
        path: where it was read from.
        content: the YAML as it stands.
        provider: aws, gcp, kuberay, external, local, …
        max_workers: most workers of all types together.
    """

    path: str
    content: dict[str, Any] = field(repr=False)
    name: str
    provider: str
    options: FgrayOptions
    node_types: tuple[NodeType, ...]
    max_workers: int
    source: Source = field(repr=False, compare=False)

    @property
    def head(self) -> NodeType:
        """The type of the head node."""
        return next(node for node in self.node_types if node.head)

    @cached_property
    def resources(self) -> dict[str, float]:
        """The most of every resource that the cluster can ever have."""
        return {name: self.most(name) for name in sorted({name for node in self.node_types for name in node.resources})}

    def most(self, resource: str) -> float:
        """Return the most of a resource that the cluster can ever have: the head and its richest workers, all at their maximum."""
        return self.head.resources.get(resource, 0.0) + self._most_of_workers(
            {n.name: n.resources.get(resource, 0.0) for n in self.node_types}
        )

    def told(self) -> str:
        """Return what every process of a job is told, in the words of `fgray.engine.cluster.Cluster`; nothing of it is secret."""
        largest = {name: max(node.resources.get(name, 0.0) for node in self.node_types) for name in self.resources}
        told = {"name": self.name, "most": self.resources, "largest": largest, "provider": self.provider}
        return json.dumps({**told, "nodes": list(self._shapes()), "max_nodes": self.max_workers + 1, "file": self._essence()})

    def _shapes(self) -> Iterator[dict[str, Any]]:
        """Yield how many nodes of equal resources work may count on: on-demand nodes stand in for spot nodes, they do not come on top."""
        groups: dict[tuple[tuple[str, float], ...], list[NodeType]] = {}
        for node in self.node_types:
            if node.head:
                yield {"resources": dict(node.resources), "least": 1, "most": 1}
            if node.max_workers or node.min_workers:
                groups.setdefault(tuple(sorted(node.resources.items())), []).append(node)
        for resources, alike in groups.items():
            least = sum(node.min_workers for node in alike)
            most = max(sum(node.max_workers for node in alike if node.spot is spot) for spot in (True, False))
            yield {"resources": dict(resources), "least": least, "most": max(least, most)}

    def _essence(self) -> dict[str, Any]:
        """Return the part of the file that a plan needs: kinds of nodes, their maxima and their prices."""
        types: dict[str, Any] = {}
        for node in self.node_types:
            config = self.content["available_node_types"][node.name].get("node_config") or {}
            said = {key: config[key] for key in _MACHINE_KEYS if key in config}
            bounds = {"min_workers": node.min_workers, "max_workers": node.max_workers}
            types[node.name] = {"resources": dict(node.resources), **bounds, "node_config": said}
        options = self.options.model_dump(mode="json", include={"prices", "currency", "prices_from", "s3_gbps"}, exclude_none=True)
        kept = {name: self.content[name] for name in ("idle_timeout_minutes",) if name in self.content}
        provider = {"type": self.provider, "fgray": options}
        known = {"cluster_name": self.name, "max_workers": self.max_workers, "head_node_type": self.head.name}
        return {**known, **kept, "provider": provider, "available_node_types": types}

    def hourly_cost(self) -> tuple[float, float] | None:
        """Return the least and the most that an hour costs while the cluster is up; None when a price is missing."""
        prices = {node.name: node.price for node in self.node_types if node.head or node.max_workers > 0}
        if any(price is None for price in prices.values()):
            return None
        known = {name: price or 0.0 for name, price in prices.items()}
        least = known[self.head.name] + sum(known.get(node.name, 0.0) * node.min_workers for node in self.node_types)
        return least, known[self.head.name] + self._most_of_workers(known)

    def where(self, keys: Keys) -> str:
        """Return ``file:line`` of a value, or of the nearest section around it."""
        return self.source.where(keys)

    def _most_of_workers(self, each: Mapping[str, float]) -> float:
        """Return the largest sum that workers can reach, where one worker of a type counts as `each` says."""
        left, total = self.max_workers, 0.0
        for node in sorted(self.node_types, key=lambda node: -each.get(node.name, 0.0)):
            workers = min(left, node.max_workers)
            left, total = left - workers, total + workers * each.get(node.name, 0.0)
        return total


def load_cluster(path: str) -> ClusterFile:
    """Read a cluster file. What Ray itself would refuse or warn of is told by `fgray cluster validate`.

    Raises:
        ConfigError: the file cannot be read, or lacks what every cluster file has; further problems stand in its ``__notes__``.
    """
    return _cluster(parse_yaml(_read(path), path), path)


def cluster_told(essence: Mapping[str, Any]) -> ClusterFile:
    """Return the cluster file that a job was told of, as far as plans need it; see `ClusterFile.told`.

    Raises:
        ConfigError: it is no part of a cluster file.
    """
    return _cluster(parse_yaml(json.dumps(essence), "FGRAY_CLUSTER"), "the cluster's file")


def _cluster(source: Source, path: str) -> ClusterFile:
    values = plain(source.values)
    try:
        cluster = _Cluster.model_validate(values)
    except ValidationError as error:
        raise explain(error, source, values, _Cluster) from None
    if cluster.head_node_type not in cluster.available_node_types:
        what = f"head_node_type '{cluster.head_node_type}' is none of available_node_types"
        fix = did_you_mean(cluster.head_node_type, cluster.available_node_types)
        raise ConfigError(what, where=source.where(("head_node_type",)), fix=fix)
    nodes = tuple(_node_type(name, node, cluster) for name, node in cluster.available_node_types.items())
    provider = cluster.provider
    return ClusterFile(path, values, cluster.cluster_name, provider.type, provider.fgray, nodes, cluster.max_workers, source)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        folder = Path(path).parent if Path(path).parent.is_dir() else Path("cluster")
        beside = [str(item) for item in (*folder.glob("*.yaml"), *Path("cluster").glob("*.yaml"))]
        fix = did_you_mean(path, set(beside)) if beside else "name a cluster file such as cluster/local-multinode.yaml"
        raise ConfigError("the cluster file does not exist", where=path, fix=fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable("the cluster file", path, error) from error


def _node_type(name: str, node: _NodeType, cluster: _Cluster) -> NodeType:
    head = name == cluster.head_node_type
    most = node.max_workers if node.max_workers is not None else 0 if head else cluster.max_workers  # as Ray fills it in
    machine, spot = _machine(node.node_config), is_spot(node.node_config)
    prices = cluster.provider.fgray.prices
    price = prices.get(machine or name) or prices.get(name)
    hourly = None if price is None else price.spot if spot else price.on_demand
    return NodeType(name, head, node.resources, node.min_workers, most, machine, spot, hourly)


def _machine(config: Mapping[str, Any]) -> str | None:
    """Return the kind of machine that a node_config asks for (AWS, GCP, or a pod's node selector)."""
    selector = config.get("nodeSelector")
    labels = [selector.get(label) for label in _MACHINE_LABELS] if isinstance(selector, Mapping) else []
    for found in (config.get("InstanceType"), config.get("machineType"), *labels):
        if isinstance(found, str):
            return found.rpartition("/")[2]  # GCP also takes zones/ZONE/machineTypes/NAME
    return None


def is_spot(config: Mapping[str, Any]) -> bool:
    """Return whether a node_config asks for capacity that may be taken away (AWS, GCP, or a pod's node selector)."""
    options = config.get("InstanceMarketOptions")
    if isinstance(options, Mapping) and options.get("MarketType") == "spot":
        return True
    scheduling = config.get("scheduling")
    for item in scheduling if isinstance(scheduling, list) else [scheduling]:  # Ray's own examples write a list
        if isinstance(item, Mapping) and (item.get("preemptible") is True or item.get("provisioningModel") == "SPOT"):
            return True
    selector = config.get("nodeSelector")
    return isinstance(selector, Mapping) and any(selector.get(label) == value for label, value in _SPOT_LABELS.items())
