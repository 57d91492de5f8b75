"""What a cluster file opens to others: ports, the dashboard, Ray's own ports without a token, plain disks, secrets in the file.

Ray runs whatever code reaches it, so who can reach a port matters more than anything else here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from fgray.config.source import Path as Keys
from fgray.launch.clusters.file import ClusterFile
from fgray.launch.clusters.finding import Finding, note, problem, walk

_WORLD = ("0.0.0.0/0", "::/0")
_OPEN_DASHBOARD = re.compile(r"--dashboard-host[= ]+['\"]?(0\.0\.0\.0|::)")
_SECRETS = [
    ("an AWS access key", re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("an access token", re.compile(r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[bap]-[A-Za-z0-9-]{10,}|ya29\.[\w-]{20,})")),
    ("a password in an address", re.compile(r"://[^/\s:@$]+:[^/\s@$]+@")),
    (
        "a secret",
        re.compile(
            r"(?i)\b\w*(SECRET|PASSWORD|PASSWD|(?<![A-Z0-9])TOKEN(?![A-Z0-9])|API_?KEY|ACCESS_KEY)\w*(?<!_PATH)(?<!_FILE)"
            r"=['\"]?(?![$'\"\s]|$)[^\s;&|'\"]+"
        ),
    ),
]
_SECRET_KEYS = re.compile(r"(?i)(secret|password|passwd|token|api_?key|access_?key(_id)?)$")
_ELSEWHERE = "keep it in a role, a Kubernetes Secret or a file of mode 0600 and name that"


def exposed(file: ClusterFile) -> Iterator[Finding]:
    """Yield what others could reach or read."""
    nodes = [(("available_node_types", n.name, "node_config"), _config(file, n.name)) for n in file.node_types]
    for keys, config in nodes:
        if file.provider == "aws":
            yield from _aws(file, keys, config)
        elif file.provider == "gcp":
            yield from _gcp(file, keys, config)
        elif file.provider == "kuberay":
            yield from _pod(file, keys, config)
    group = file.content["provider"].get("security_group")
    for index, rule in enumerate((group.get("IpPermissions") or []) if isinstance(group, dict) else []):
        for place in (*(rule.get("IpRanges") or []), *(rule.get("Ipv6Ranges") or [])) if isinstance(rule, dict) else ():
            if set(_WORLD) & set(map(str, place.values())):
                ports = f"{rule.get('FromPort', 'all')}–{rule.get('ToPort', 'all')}"
                where: Keys = ("provider", "security_group", "IpPermissions", index)
                yield problem(file, where, f"the ports {ports} are open to the world", "name the addresses that need them, or none")
    yield from _commands(file)
    yield from _secrets(file)


def _config(file: ClusterFile, name: str) -> dict[str, Any]:
    config: dict[str, Any] = file.content["available_node_types"][name].get("node_config", {})
    return config


def _aws(file: ClusterFile, keys: Keys, config: dict[str, Any]) -> Iterator[Finding]:
    interfaces = config.get("NetworkInterfaces")
    grouped = config.get("SecurityGroupIds") or (isinstance(interfaces, list) and all(i.get("Groups") for i in interfaces))
    if not grouped and "LaunchTemplate" not in config:
        what = "no security group: Ray would make one that opens SSH to 0.0.0.0/0"
        yield problem(file, keys, what, "make a closed one and name it in SecurityGroupIds; cluster/README.md has the commands")
    disks = [(disk.get("Ebs") or {}, index) for index, disk in enumerate(config.get("BlockDeviceMappings") or []) if isinstance(disk, dict)]
    for disk, index in disks:
        if disk.get("Encrypted") is not True:
            yield problem(file, (*keys, "BlockDeviceMappings", index), "the disk is not encrypted", "add Ebs: {Encrypted: true}")
    if not disks and "LaunchTemplate" not in config:
        what = "no disk is described: the image's own may be small and plain"
        yield problem(file, keys, what, "add BlockDeviceMappings with Ebs: {VolumeSize: 200, VolumeType: gp3, Encrypted: true}")
    if (config.get("MetadataOptions") or {}).get("HttpTokens") != "required":
        what = "instance credentials can be read without a session token (IMDSv1)"
        yield note(file, keys, what, "add MetadataOptions: {HttpTokens: required, HttpPutResponseHopLimit: 2}")


def _gcp(file: ClusterFile, keys: Keys, config: dict[str, Any]) -> Iterator[Finding]:
    interfaces = config.get("networkInterfaces")
    if not interfaces:
        what = "no network: Ray would take the project's first subnet, with a public address"
        yield problem(file, keys, what, "state networkInterfaces: [{subnetwork: …}] of a network whose firewall is closed")
        return
    for index, interface in enumerate(interfaces):
        if isinstance(interface, dict) and interface.get("accessConfigs"):
            what = "the node has a public address: the network's firewall is all that closes its ports"
            yield note(
                file, (*keys, "networkInterfaces", index), what, "leave accessConfigs out and reach it through IAP, or check the rules"
            )


def _pod(file: ClusterFile, keys: Keys, config: dict[str, Any]) -> Iterator[Finding]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if config.get(name):
            yield problem(file, (*keys, name), f"{name} gives the pod what belongs to its machine", "remove it")
    for index, container in enumerate(config.get("containers") or []):
        place: Keys = (*keys, "containers", index)
        if (container.get("securityContext") or {}).get("privileged"):
            yield problem(file, place, "the container is privileged", "remove it: GPUs need no privileges")
        if any(port.get("hostPort") for port in container.get("ports") or []):
            yield problem(file, place, "a port of the machine is opened (hostPort)", "remove it; use kubectl port-forward")


def _commands(file: ClusterFile) -> Iterator[Finding]:
    """Check how Ray is started: a closed dashboard, and a token that every node has."""
    if file.provider == "kuberay" or (file.provider == "external" and not _start(file, "head")):
        return  # KubeRay and fgray start Ray themselves, with a token
    docker = file.content.get("docker") or {}
    options = [str(text) for name in ("run_options", "head_run_options", "worker_run_options") for text in docker.get(name) or []]
    by_container = any("RAY_AUTH_MODE=token" in text for text in options)
    for role in ("head", "worker"):
        name = f"{role}_start_ray_commands"
        commands = _start(file, role)
        if not commands:
            yield problem(file, (), f"no {name}: Ray's own open the dashboard to all addresses and ask for no token", f"state {name}")
        for index, command in enumerate(commands):
            if _OPEN_DASHBOARD.search(command):
                what = "the dashboard, which runs whatever it is sent, listens on all addresses"
                yield problem(file, (name, index), what, "say --dashboard-host=127.0.0.1; fgray reaches it through a tunnel")
            if "RAY_AUTH_MODE=disabled" in command:
                yield problem(file, (name, index), "authentication is switched off", "say RAY_AUTH_MODE=token")
            elif "ray start" in command and "RAY_AUTH_MODE=token" not in command and not by_container:
                what = "Ray is started without authentication: whoever reaches a port runs code"
                yield problem(file, (name, index), what, "put `export RAY_AUTH_MODE=token;` before `ray start`")
    places = " ".join([*options, *_start(file, "head"), *_start(file, "worker")])
    mounts = file.content.get("file_mounts") or {}
    copies = [str(text) for text in file.content.get("setup_commands") or [] if ".ray/auth_token" in str(text)]
    if not any(
        str(target).endswith(".ray/auth_token")
        or f"RAY_AUTH_TOKEN_PATH={target}" in places
        or any(f"/{PurePosixPath(str(target)).name} " in text for text in copies)
        for target in mounts
    ):
        what = "no token gets to the nodes"
        fix = f"add file_mounts: {{/home/ray/fgray-token: ~/.fgray/clusters/{file.name}/token}}"
        fix += " and copy that to ~/.ray/auth_token in setup_commands, as the files of this project do"
        yield problem(file, ("file_mounts",), what, fix)
    for target, source in mounts.items():
        own = f"~/.fgray/clusters/{file.name}/"
        if str(source).startswith("~/.fgray/clusters/") and not str(source).startswith(own):
            yield problem(file, ("file_mounts", target), f"the file of another cluster is mounted: {source}", f"name the one in {own}")


def _start(file: ClusterFile, role: str) -> list[str]:
    return [text for text in file.content.get(f"{role}_start_ray_commands") or [] if isinstance(text, str)]


def _secrets(file: ClusterFile) -> Iterator[Finding]:
    """Look for what must not stand in a file that is copied to every node. What was found is not shown."""
    for name in ("aws_credentials", "gcp_credentials"):
        if file.content["provider"].get(name):
            yield problem(file, ("provider", name), "credentials stand in the file, which Ray copies to the head", _ELSEWHERE)
    for keys, value in walk(file.content):
        if not isinstance(value, str) or keys[:2] in (("provider", "aws_credentials"), ("provider", "gcp_credentials")):
            continue
        kinds = [kind for kind, pattern in _SECRETS if pattern.search(value)]
        if kinds:
            yield problem(file, keys, f"{kinds[0]} stands in the file", _ELSEWHERE)
            continue
        name = str(keys[-1])
        if name == "value":  # the lists of names and values of pods and of Compute Engine's metadata
            pair = _at(file.content, keys[:-1])
            name = str(pair.get("name") or pair.get("key") or name)
        if _SECRET_KEYS.search(name) and value and not value.startswith(("/", "~", "$")):
            yield problem(file, keys, f"'{name}' holds a secret", _ELSEWHERE)


def _at(content: Any, keys: Keys) -> Any:
    for key in keys:
        content = content[key]
    return content
