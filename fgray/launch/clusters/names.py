"""Finds misspelt names in `provider` and `node_config`, which Ray's own schema leaves unchecked.

AWS: the parameters of EC2's RunInstances in botocore's own service model, all levels and enumerations. GCP: `gcp_instance.json`, from
the discovery document of the Compute Engine API (its revision stands in the file). Kubernetes: see `kuberay.check`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from fgray.config.source import Path as Keys
from fgray.errors import did_you_mean
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.finding import Finding, note, problem

_ANY_PROVIDER = ("type", "fgray", "disable_node_updaters", "disable_launch_config_check", "foreground_node_launch", "worker_liveness_check")
_PROVIDERS = {  # what Ray 2.60's node providers read of their section
    "aws": ("region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair", "security_group", "cloudwatch",
            "aws_credentials"),
    "gcp": ("region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips", "gcp_credentials"),
    "kuberay": ("namespace",),
    "local": ("head_ip", "worker_ips", "external_head_ip", "coordinator_address"),
}  # fmt: skip
_NEEDED = {"aws": ("region",), "gcp": ("region", "availability_zone", "project_id"), "kuberay": ("namespace",), "external": ("module",)}
_RAYS_OWN_AWS = ("SubnetIds",)  # Ray picks one of them for every node
_GROWS_FASTER = ("InstanceType",)  # new machines appear more often than botocore is updated


def misspelt(file: ClusterFile) -> Iterator[Finding]:
    """Yield a finding for every name that the provider does not know, and for every key that it needs and misses."""
    yield from _provider(file)
    for name, node in file.content["available_node_types"].items():
        config, keys = node.get("node_config", {}), ("available_node_types", name, "node_config")
        if file.provider == "aws":
            yield from _aws(file, keys, config, _run_instances())
        elif file.provider == "gcp" and "machineType" in config:
            yield from _tree(file, keys, config, _gcp_instance())


def _provider(file: ClusterFile) -> Iterator[Finding]:
    section = file.content["provider"]
    for key in _NEEDED.get(file.provider, ()):
        if section.get(key) in (None, ""):
            yield problem(file, ("provider",), f"provider.{key} is missing", "add it")
    known = _PROVIDERS.get(file.provider)
    if known is None:
        return  # an external provider reads keys of its own
    for key in section:
        if key not in known and key not in _ANY_PROVIDER:
            what = f"Ray's {file.provider} provider knows no '{key}'"
            yield problem(file, ("provider", key), what, did_you_mean(key, (*known, *_ANY_PROVIDER)))
    zone, region = section.get("availability_zone"), section.get("region")
    if isinstance(zone, str) and isinstance(region, str):
        for each in zone.split(","):
            if not each.strip().startswith(region):
                yield problem(
                    file, ("provider", "availability_zone"), f"the zone '{each.strip()}' is not in {region}", "name one of its zones"
                )


@cache
def _run_instances() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("ec2", "service-2")).shape_for("RunInstancesRequest")


def _aws(file: ClusterFile, keys: Keys, value: Any, shape: Any) -> Iterator[Finding]:
    """Compare a value with a shape of botocore's model."""
    if shape.type_name == "structure":
        if not isinstance(value, dict):
            yield problem(file, keys, f"{keys[-1]} must be a section", f"its keys: {', '.join(sorted(shape.members))}")
            return
        own = _RAYS_OWN_AWS if shape.name == "RunInstancesRequest" else ()
        for key, item in value.items():
            if key in shape.members:
                yield from _aws(file, (*keys, key), item, shape.members[key])
            elif key not in own:
                yield problem(file, (*keys, key), f"EC2 knows no '{key}' here", did_you_mean(key, (*shape.members, *own)))
    elif shape.type_name == "list":
        if not isinstance(value, list):
            yield problem(file, keys, f"{keys[-1]} must be a list", "write it as [ … ]")
            return
        for index, item in enumerate(value):
            yield from _aws(file, (*keys, index), item, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        say = note if keys[-1] in _GROWS_FASTER else problem
        yield say(file, keys, f"EC2 knows no {keys[-1]} '{value}'", _closest(str(value), shape.enum))


@cache
def _gcp_instance() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(files("fgray.launch.clusters").joinpath("gcp_instance.json").read_text())["instance"]
    return tree


def _tree(file: ClusterFile, keys: Keys, value: Any, known: Any) -> Iterator[Finding]:
    """Compare a value with a tree: a mapping of names, a list of allowed words, or None for anything."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _tree(file, (*keys, index), item, known)
    elif isinstance(known, dict):
        if not isinstance(value, dict):
            yield problem(file, keys, f"{keys[-1]} must be a section", f"its keys: {', '.join(sorted(known))}")
            return
        for key, item in value.items():
            if key in known:
                yield from _tree(file, (*keys, key), item, known[key])
            else:
                yield problem(file, (*keys, key), f"Compute Engine knows no '{key}' here", did_you_mean(key, known))
    elif isinstance(known, list) and value not in known:
        yield problem(file, keys, f"Compute Engine knows no {keys[-1]} '{value}'", _closest(str(value), known))


def _closest(value: str, known: list[str]) -> str:
    fix = did_you_mean(value, known)
    return fix if len(known) < 20 or fix.startswith("did you mean") else "check its name"
