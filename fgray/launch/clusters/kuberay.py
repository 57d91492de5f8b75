"""Kubernetes manifests of a cluster file: RayCluster or RayJob (ray.io/v1, KubeRay 1.5.1 or newer), and a NetworkPolicy around it.

A node type's `node_config` is (a part of) a pod's spec in Kubernetes' own words; its first container is Ray's. Image, resources, a
restricted security context and the token come from here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fgray.config import load_config
from fgray.config.source import Path as Keys
from fgray.config.source import to_yaml
from fgray.errors import ConfigError, did_you_mean
from fgray.launch.clusters.file import ClusterFile, NodeType
from fgray.launch.clusters.finding import Finding, problem

_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_HEAD_LIMITS = {"cpu": "2", "memory": "8Gi"}  # its own scheduler, dashboard and driver; it takes no tasks
_PATIENCE = {"name": "RAY_JOB_START_TIMEOUT_SECONDS", "value": "3600"}  # a job that installs gigabytes waits longer than Ray would
_OWN = ("CPU", "GPU", "memory", "object_store_memory")  # resources that Ray knows by name; others are the user's
_CONFIG = "/etc/fgray/config.yaml"  # a ConfigMap, mounted into the head


def manifests(file: ClusterFile, config: str | None = None, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the Kubernetes objects of a cluster, or of one job with a cluster of its own.

    Args:
        file: the cluster.
        config: a job's configuration, which becomes a RayJob; its paths must be s3:// addresses or lie in the image.
        overrides: ``a.b=c`` assignments to it.

    Raises:
        ConfigError: the file describes no Kubernetes cluster, or the job cannot run on it, or names a variable that looks like a secret.
    """
    if file.provider != "kuberay":
        raise ConfigError(f"manifests are for Kubernetes, not for {file.provider}", where=file.path, fix="name a file of type kuberay")
    wall = _network_policy(file)
    if config is None:
        return [wall, _object(file, "RayCluster", file.name, _cluster_spec(file))]
    return [wall, *_job(file, config, overrides)]


def check(file: ClusterFile) -> Iterator[Finding]:
    """Compare the manifests with KubeRay's and Kubernetes' own fields; names that they would drop silently are problems."""
    import jsonschema

    cluster = _object(file, "RayCluster", file.name, _cluster_spec(file))
    validator = jsonschema.Draft202012Validator({**schema(), "$ref": "#/$defs/RayCluster"})
    for error in validator.iter_errors(cluster):
        keys = _origin(file, tuple(error.absolute_path))
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = error.schema["properties"]
            for key in sorted(set(error.instance) - set(known)):
                yield problem(file, (*keys, key), f"Kubernetes knows no '{key}' here", did_you_mean(key, known))
        else:
            yield problem(file, keys, f"Kubernetes would refuse it: {error.message}", "see the reference of the field")


@cache
def schema() -> dict[str, Any]:
    """Return KubeRay's custom resources as a JSON schema that refuses unknown fields; its `$comment` says where it comes from."""
    read: dict[str, Any] = json.loads(files("fgray.launch.clusters").joinpath("kuberay_schema.json").read_text())
    return read


def _origin(file: ClusterFile, path: Keys) -> Keys:
    """Return where in the cluster file a value of the RayCluster comes from."""
    workers = [node for node in file.node_types if not node.head]
    if path[:4] == ("spec", "headGroupSpec", "template", "spec"):
        return ("available_node_types", file.head.name, "node_config", *path[4:])
    if path[:2] == ("spec", "workerGroupSpecs") and path[3:5] == ("template", "spec"):
        return ("available_node_types", workers[int(path[2])].name, "node_config", *path[5:])
    return ("cluster_name",) if path == ("metadata", "name") else ()


def _object(file: ClusterFile, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": file.content["provider"].get("namespace", "default"), "labels": _labels(file)}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _labels(file: ClusterFile) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "fgray", "app.kubernetes.io/instance": file.name}


def _cluster_spec(file: ClusterFile, mounts: bool = False) -> dict[str, Any]:
    idle = round(60 * float(file.content.get("idle_timeout_minutes", 5)))
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},  # KubeRay makes the Secret and gives it to every pod
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": idle,
            "upscalingMode": "Default",
            "securityContext": copy.deepcopy(_RESTRICTED),
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "1Gi"}},
        },
        "headGroupSpec": {"serviceType": "ClusterIP", "rayStartParams": _start(file.head), "template": _pod(file, file.head, mounts)},
        "workerGroupSpecs": [_group(file, node) for node in file.node_types if not node.head],
    }


def _group(file: ClusterFile, node: NodeType) -> dict[str, Any]:
    group: dict[str, Any] = {
        "groupName": node.name,
        "replicas": node.min_workers,
        "minReplicas": node.min_workers,
        "maxReplicas": node.max_workers,
        "rayStartParams": _start(node),
        "template": _pod(file, node, False),
    }
    idle = file.content["available_node_types"][node.name].get("idle_timeout_s")
    return group if idle is None else {**group, "idleTimeoutSeconds": round(idle)}


def _start(node: NodeType) -> dict[str, str]:
    """Return the arguments of `ray start`; memory and GPUs Ray finds in the container's limits."""
    params = {"num-cpus": f"{node.resources.get('CPU', 0):.0f}"}
    if "object_store_memory" in node.resources:
        params["object-store-memory"] = f"{node.resources['object_store_memory']:.0f}"
    own = {name: int(amount) for name, amount in node.resources.items() if name not in _OWN}
    if own:
        escaped = json.dumps(own).replace('"', '\\"')
        params["resources"] = f'"{escaped}"'  # the form that KubeRay passes through a shell
    return params


def _pod(file: ClusterFile, node: NodeType, mounts: bool) -> dict[str, Any]:
    """Return a pod template: what node_config says, filled up with what it leaves out."""
    spec = copy.deepcopy(file.content["available_node_types"][node.name].get("node_config", {}))
    docker = file.content.get("docker") or {}
    given = (spec.pop("containers", None) or [{}])[0]
    limits = dict(_HEAD_LIMITS) if node.head else {"cpu": f"{node.resources.get('CPU', 1):.0f}"}
    if "memory" in node.resources:
        limits["memory"] = f"{node.resources['memory']:.0f}"
    if node.resources.get("GPU"):
        limits["nvidia.com/gpu"] = f"{node.resources['GPU']:.0f}"
    stated = given.get("resources") or {}
    container = {
        "name": "ray-head" if node.head else "ray-worker",
        "image": docker.get("head_image" if node.head else "worker_image", docker.get("image")),
        "securityContext": copy.deepcopy(_RESTRICTED),
        **given,
        "resources": {**stated, "requests": {**limits, **stated.get("requests", {})}, "limits": {**limits, **stated.get("limits", {})}},
    }
    if node.head and not any(one.get("name") == _PATIENCE["name"] for one in container.get("env") or ()):
        container["env"] = [*(container.get("env") or ()), dict(_PATIENCE)]
    if mounts:
        container["volumeMounts"] = [
            *container.get("volumeMounts", []),
            {"name": "fgray-config", "mountPath": "/etc/fgray", "readOnly": True},
        ]
        spec["volumes"] = [*spec.get("volumes", []), {"name": "fgray-config", "configMap": {"name": f"{file.name}-config"}}]
    if not node.head:
        spec.setdefault("automountServiceAccountToken", False)  # only the head's autoscaler speaks to Kubernetes
    return {"metadata": {"labels": _labels(file)}, "spec": {**spec, "containers": [container]}}


def _job(file: ClusterFile, path: str, overrides: Sequence[str]) -> list[dict[str, Any]]:
    from fgray.launch.remote.environment import named_variables

    loaded = load_config(path, overrides)
    job = loaded.job
    if file.options.dependencies != "image":
        fix = "build an image with fgray in it, name it in docker.image and say provider.fgray.dependencies: image; or use fgray submit"
        raise ConfigError("a RayJob runs what its image has", where=file.path, fix=fix)
    output = getattr(job, "output", None)
    if isinstance(output, str) and "://" not in output:
        raise ConfigError("the results would vanish with the pods", where=f"output: {output}", fix="write them to an s3:// address")
    environment = {**named_variables(loaded.source, path), "FGRAY_CLUSTER": file.told()}
    spec = {
        "entrypoint": f"python -m fgray submit {_CONFIG} --cluster local",  # inside the cluster that FGRAY_CLUSTER names
        "runtimeEnvYAML": json.dumps({"env_vars": environment}),  # JSON is YAML
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,  # replacing the manifest resumes; a second cluster beside a sick one would not help
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 300,
        "rayClusterSpec": _cluster_spec(file, mounts=True),
    }
    described = _object(file, "RayJob", f"{file.name}-{job.job}".replace("_", "-"), spec)
    config = _object(file, "ConfigMap", f"{file.name}-config", {})
    del config["spec"]
    return [{**config, "apiVersion": "v1", "data": {"config.yaml": to_yaml(loaded.source)}}, described]


def _network_policy(file: ClusterFile) -> dict[str, Any]:
    """Return a wall: the cluster's pods reach each other; pods of the namespace its dashboard, which asks for the token; nobody else."""
    mine = {"matchLabels": _labels(file)}
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
    dashboard = [{"protocol": "TCP", "port": 8265}]
    policy = _object(
        file,
        "NetworkPolicy",
        f"{file.name}-private",
        {
            "podSelector": copy.deepcopy(mine),
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": mine}]}, {"from": [{"podSelector": {}}, operator], "ports": dashboard}],
        },
    )
    return {**policy, "apiVersion": "networking.k8s.io/v1"}
