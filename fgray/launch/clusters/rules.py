"""Checks a cluster file offline: Ray's own schema, names inside the cloud's sections, and what costs money or opens doors."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fgray.config.source import Path as Keys
from fgray.errors import ConfigError, did_you_mean
from fgray.launch.clusters.exposure import exposed
from fgray.launch.clusters.file import ClusterFile, NodeType
from fgray.launch.clusters.finding import Finding, note, problem, walk
from fgray.launch.clusters.names import misspelt
from fgray.launch.plan.devices import gpu_of

CLOUDS = ("aws", "gcp", "kuberay")
"""Providers whose nodes cost money by the hour."""

_LONG_IDLE = 30.0  # minutes
_PLACEHOLDER = re.compile(r"[\w-]*REPLACE[\w-]*")
_SCRIPTS = ("ssh_proxy_command", "UserData", "metadata", "command", "args")  # shells and Kubernetes resolve variables in these
_VARIABLE = re.compile(r"\$\{[A-Za-z_]")


def validate(file: ClusterFile) -> list[Finding]:
    """Return what is wrong with a cluster file or worth knowing of it, problems first. Nothing is asked of any network."""
    found = [*_schema(file), *misspelt(file), *_text(file), *exposed(file)]
    if file.provider in CLOUDS:
        found += [*_images(file), *_limits(file), *_money(file), *_patience(file)]
    if file.provider == "kuberay":
        from fgray.launch.clusters.kuberay import check

        found += check(file)
    return sorted(_merged(found), key=lambda finding: finding.level != "problem")


def refuse_problems(file: ClusterFile) -> None:
    """Refuse a cluster file with problems, as everything does that starts nodes.

    Raises:
        ConfigError: the first problem; the others stand in its ``__notes__``.
    """
    problems = [finding for finding in validate(file) if finding.level == "problem"]
    if problems:
        first, *others = problems
        error = ConfigError(first.what, where=f"{first.where}, {first.place}", fix=first.fix)
        for other in others:
            error.add_note(str(other))
        raise error


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Say once what is true of several node types."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.what, finding.fix), []).append(finding)
    for first, *others in groups.values():
        more = len({other.where for other in others} - {first.where})
        yield first._replace(what=f"{first.what} (and in {more} more places)" if more > 1 else first.what)


def _schema(file: ClusterFile) -> Iterator[Finding]:
    """Ask Ray itself, as `ray up` does first."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = copy.deepcopy(file.content)
    if file.provider == "kuberay":
        content.setdefault("cluster_synced_files", [])  # Ray makes these files itself, with this field
    logger = logging.getLogger("ray.autoscaler._private.util")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of fields that its own defaults bring
    try:
        validate_config(prepare_config(content))
    except jsonschema.ValidationError as error:
        keys: Keys = tuple(error.absolute_path)
        fix = "see Ray's cluster configuration reference"
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = error.schema.get("properties", {})
            wrong = [key for key in error.instance if key not in known]
            for key in wrong:
                yield problem(file, (*keys, key), f"Ray's format knows no '{key}' here", did_you_mean(key, known))
            return
        yield problem(file, keys, f"Ray refuses the file: {error.message}", fix)
    except NotImplementedError:
        known = ("aws", "gcp", "kuberay", "external", "local", "azure", "aliyun", "vsphere")
        yield problem(file, ("provider", "type"), f"Ray has no provider '{file.provider}'", did_you_mean(file.provider, known))
    except KeyError as error:
        yield problem(file, (), f"Ray misses the key {error}", "add it, empty if need be")
    except Exception as error:  # Ray raises plain ValueErrors, AssertionErrors and what its providers raise
        yield problem(file, (), f"Ray refuses the file: {error or type(error).__name__}", "see Ray's cluster configuration reference")
    finally:
        logger.setLevel(level)


def _text(file: ClusterFile) -> Iterator[Finding]:
    """Look for placeholders that nobody replaced and variables that nobody resolves."""
    for keys, value in walk(file.content):
        if not isinstance(value, str):
            continue
        if placeholder := _PLACEHOLDER.search(value):
            yield problem(file, keys, f"'{placeholder[0]}' is a placeholder", "put your own value; cluster/README.md says how to get it")
        if _VARIABLE.search(value) and not _is_command(keys):
            yield problem(file, keys, "Ray resolves no variables in cluster files", "write the value itself")


def _images(file: ClusterFile) -> Iterator[Finding]:
    """Every node must start from a stated image, the same tomorrow as today."""
    docker = file.content.get("docker") or {}
    for name in ("image", "head_image", "worker_image"):
        if name in docker:
            yield from _pinned(file, ("docker", name), docker[name])
    for node in file.node_types:
        keys: Keys = ("available_node_types", node.name, "node_config")
        config = file.content["available_node_types"][node.name].get("node_config", {})
        if file.provider == "aws":
            image = config.get("ImageId")
            if "LaunchTemplate" in config:
                continue
            if not image or str(image).lower() == "latest_dlami":
                yield problem(file, keys, "no ImageId: Ray would take an Ubuntu 18.04 image of 2022", "state the AMI")
            elif str(image).startswith("resolve:ssm:") and not re.search(r":\d+$", str(image)):
                yield note(
                    file, (*keys, "ImageId"), "the AMI follows a parameter that its owner moves", "pin it by an ami-… id, or :VERSION"
                )
        elif file.provider == "gcp" and "machineType" in config:
            disks = config.get("disks") or []
            boot = [disk for disk in disks if isinstance(disk, dict) and disk.get("boot")]
            images = [(disk.get("initializeParams") or {}).get("sourceImage") for disk in boot]
            if not any(images) and "sourceInstanceTemplate" not in config and not any(disk.get("source") for disk in boot):
                yield problem(file, keys, "no sourceImage on a boot disk", "add disks: [{boot: true, initializeParams: {sourceImage: …}}]")
            elif any("/family/" in str(image) for image in images):
                yield note(file, (*keys, "disks"), "the image follows a family that its owner moves", "pin it by the name of one image")
        elif file.provider == "kuberay":
            containers = config.get("containers") or [{}]
            image = containers[0].get("image")
            chosen = docker.get("head_image" if node.head else "worker_image", docker.get("image"))
            if image:
                yield from _pinned(file, (*keys, "containers", 0, "image"), image)
            elif not chosen:
                yield problem(file, ("docker",), f"no image for the pods of '{node.name}'", "state docker.image")


def _pinned(file: ClusterFile, keys: Keys, image: Any) -> Iterator[Finding]:
    if not isinstance(image, str) or not image:
        yield problem(file, keys, "the image is not named", "write REGISTRY/NAME:TAG")
        return
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if "@sha256:" not in image and (not tag or tag == "latest" or tag.startswith("nightly")):
        yield problem(file, keys, f"the image '{image}' is whatever was pushed last", "pin it by a version's tag or by @sha256:…")


def _limits(file: ClusterFile) -> Iterator[Finding]:
    """What keeps a bill finite: maxima, an idle timeout, a head that outlives its workers."""
    types = file.content["available_node_types"]
    if "max_workers" not in file.content:
        yield problem(file, (), "the cluster states no maximum of workers", "add max_workers: N")
    for node in file.node_types:
        keys: Keys = ("available_node_types", node.name)
        if not node.head and "max_workers" not in types[node.name]:
            yield problem(file, keys, f"the node type '{node.name}' states no maximum", "add max_workers: N")
        if node.min_workers > node.max_workers:
            yield problem(
                file, keys, f"'{node.name}' has more workers at least ({node.min_workers}) than at most ({node.max_workers})", "swap"
            )
        if not node.head and not node.resources:
            yield problem(
                file, keys, f"the resources of '{node.name}' are not stated", "add resources: {CPU: …, GPU: …}; plans rest on them"
            )
        if node.head and node.spot:
            yield problem(file, keys, "the head is a spot machine: when it goes, the cluster and its job end", "take it on demand")
        if node.head and node.resources.get("CPU", 0) > 0:
            yield note(file, (*keys, "resources"), "the head takes work: it slows the scheduler and hides demand for nodes", "say CPU: 0")
    idle = file.content.get("idle_timeout_minutes")
    if idle is None:
        yield problem(file, (), "no idle timeout is stated", "add idle_timeout_minutes: 5")
    elif isinstance(idle, (int, float)) and idle > _LONG_IDLE:
        yield note(file, ("idle_timeout_minutes",), f"idle nodes cost money for {idle:g} minutes", "5 minutes outlast most pauses")
    if file.provider == "aws" and file.content["provider"].get("cache_stopped_nodes") is not False:
        what = "idle on-demand nodes are stopped, not terminated: their disks go on costing"
        yield note(file, ("provider",), what, "say provider.cache_stopped_nodes: false")


def _money(file: ClusterFile) -> Iterator[Finding]:
    """Prices, and what happens when spot capacity runs out."""
    for node in file.node_types:
        keys: Keys = ("available_node_types", node.name)
        if node.price is None and (node.head or node.max_workers):
            say = problem if node.resources.get("GPU") or gpu_of(node) is not None else note
            kind = "spot price" if node.spot else "price"
            what = f"'{node.name}' ({node.machine or 'machine not named'}) has no {kind}: no plan can say what a run costs"
            yield say(file, keys, what, f"add provider.fgray.prices.'{node.machine or node.name}'")
        if not node.spot or node.head:
            continue
        fallbacks = [other for other in file.node_types if not other.spot and not other.head and other.max_workers and _covers(other, node)]
        if not fallbacks:
            what = f"'{node.name}' has no on-demand type to fall back on: a run waits while no spot capacity is to be had"
            yield note(file, keys, what, "add a type with the same resources and without spot")
        elif file.provider != "kuberay" and any(_priority(file, other) >= _priority(file, node) for other in fallbacks):
            what = f"on-demand nodes may be started before '{node.name}'"
            yield note(file, keys, what, "say priority: 1 for the spot type: the autoscaler starts the higher one first")


def _patience(file: ClusterFile) -> Iterator[Finding]:
    """Ray fails a job that waits for its packages longer than a quarter of an hour, unless its head is told otherwise."""
    if file.provider == "kuberay" or file.options.dependencies != "install":
        return  # the manifests say it
    docker = file.content.get("docker") or {}
    said = [file.content.get("head_start_ray_commands"), docker.get("run_options"), docker.get("head_run_options")]
    if "RAY_JOB_START_TIMEOUT_SECONDS" not in str(said):
        what = "Ray fails a job whose packages take longer than 15 minutes to install"
        yield note(file, ("head_start_ray_commands",), what, "put `export RAY_JOB_START_TIMEOUT_SECONDS=3600;` before `ray start`")


def _covers(other: NodeType, node: NodeType) -> bool:
    """Return whether work that fits a node fits the other type, too."""
    return all(other.resources.get(name, 0) >= amount for name, amount in node.resources.items() if name in ("CPU", "GPU"))


def _priority(file: ClusterFile, node: NodeType) -> int:
    return int(file.content["available_node_types"][node.name].get("priority", 0))


def _is_command(keys: Keys) -> bool:
    return any(isinstance(key, str) and (key.endswith("_commands") or key in _SCRIPTS) for key in keys)
