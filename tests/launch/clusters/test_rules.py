"""Every rule fires on a broken copy of a shipped file, and on no shipped file as it is."""

# ruff: noqa: E501  # the table of broken copies is read by the line

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from fgray.errors import ConfigError
from fgray.launch.clusters.file import load_cluster
from fgray.launch.clusters.finding import Finding
from fgray.launch.clusters.rules import refuse_problems, validate

CLUSTERS = Path(__file__).resolve().parents[3] / "cluster"
SHIPPED = sorted(CLUSTERS.glob("*.yaml"))
VALUES = {"sg-REPLACE": "sg-0a1b2c3d4e5f60718", "REPLACE-PROJECT": "my-project"}  # what a user puts in


def text_of(name: str) -> str:
    text = (CLUSTERS / name).read_text()
    for placeholder, value in VALUES.items():
        text = text.replace(placeholder, value)
    return text


def findings(tmp_path: Path, text: str) -> list[Finding]:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return validate(load_cluster(str(path)))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_pass_rays_schema_and_our_rules_once_filled_in(tmp_path, path):
    text = text_of(path.name)
    assert [str(finding) for finding in findings(tmp_path, text) if finding.level == "problem"] == []
    unfilled = [finding for finding in validate(load_cluster(str(path))) if finding.level == "problem"]
    assert {finding.what.split("'")[1].split("@")[-1] for finding in unfilled} <= {*VALUES, "fgray-node", "fgray-head"}
    assert all("is a placeholder" in finding.what for finding in unfilled)


@pytest.mark.parametrize("path", [path for path in SHIPPED if path.name != "kuberay.yaml"], ids=lambda path: path.name)
def test_ray_itself_takes_the_shipped_files_as_they_are(path):
    import yaml

    prepared = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == load_cluster(str(path)).content["available_node_types"].keys()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_open_with_the_command_and_what_an_hour_costs(path):
    first = path.read_text().splitlines()[0]
    assert re.search(rf"^# fgray submit configs/\S+ --cluster cluster/{path.name} ", first)
    config = re.search(r"configs/\S+", first)
    assert config is not None and (CLUSTERS.parent / config[0]).is_file()
    cost = load_cluster(str(path)).hourly_cost()
    expected = "costs nothing" if cost is None else f"{cost[0]:.2f} USD an hour idle, {cost[1]:.2f} with every worker"
    assert first.endswith(expected)


AWS, GCP, KUBERAY = "aws-l4-spot.yaml", "gcp-l4-spot.yaml", "kuberay.yaml"
HEAD_COMMAND = "--dashboard-host=127.0.0.1"
TYPES = "available_node_types"

# file, what is broken, level, where, what is said, and how to mend it
BROKEN = [
    # Ray's own schema
    (AWS, "max_workers: 8", "max_wrokers: 8", "problem", "max_wrokers", "Ray's format knows no 'max_wrokers' here", "did you mean 'max_workers'?"),
    (AWS, "    max_workers: 4\n", "    max_workers: many\n", "refused", "", "must be a whole number", ""),
    (AWS, "min_workers: 0", "min_workers: 9", "problem", "the file", "Ray refuses the file: The specified global `max_workers` is smaller", ""),
    (AWS, "type: aws", "type: awss", "problem", "provider.type", "Ray has no provider 'awss'", "did you mean 'aws'?"),
    # names inside provider and node_config
    (AWS, "  region: us", "  regionn: us", "problem", "provider.regionn", "Ray's aws provider knows no 'regionn'", "did you mean 'region'?"),
    (AWS, "  region: us", "  regionn: us", "problem", "provider", "provider.region is missing", "add it"),
    (AWS, "us-west-2a,", "us-east-1a,", "problem", "provider.availability_zone", "the zone 'us-east-1a' is not in us-west-2", "its zones"),
    (AWS, "InstanceType: m7i", "InstanceTyp: m7i", "problem", f"{TYPES}.head.node_config.InstanceTyp", "EC2 knows no 'InstanceTyp'", "'InstanceType'"),
    (AWS, "InstanceType: m7i.xlarge", "InstanceType: m7i.xlarg", "note", f"{TYPES}.head.node_config.InstanceType", "'m7i.xlarg'", "'m7i.xlarge'"),
    (AWS, "MarketType: spot", "MarketType: spott", "problem", f"{TYPES}.gpu-spot.node_config.InstanceMarketOptions.MarketType", "'spott'", "'spot'"),
    (AWS, "VolumeSize", "VolumSize", "problem", f"{TYPES}.head.node_config.BlockDeviceMappings.0.Ebs.VolumSize", "EC2 knows no", "'VolumeSize'"),
    (AWS, "{Name: fgray-head}", "fgray-head", "problem", f"{TYPES}.head.node_config.IamInstanceProfile", "must be a section", "Arn, Name"),
    (AWS, "[sg-0a1b2c3d4e5f60718]", "sg-1", "problem", f"{TYPES}.head.node_config.SecurityGroupIds", "must be a list", "[ … ]"),
    (GCP, "availability_zone: us-central1-a", "availability_zone: us-east1-b", "problem", "provider.availability_zone", "not in us-central1", ""),
    (GCP, "  project_id: my-project", "", "problem", "provider", "provider.project_id is missing", "add it"),
    (GCP, "provisioningModel: SPOT", "provisioningModl: SPOT", "problem", f"{TYPES}.gpu-spot.node_config.scheduling.provisioningModl", "knows no", "'provisioningModel'"),
    (GCP, "provisioningModel: SPOT", "provisioningModel: SPOTTY", "problem", f"{TYPES}.gpu-spot.node_config.scheduling.provisioningModel", "'SPOTTY'", "'SPOT'"),
    (GCP, "diskSizeGb", "diskSizeGB", "problem", f"{TYPES}.head.node_config.disks.0.initializeParams.diskSizeGB", "knows no", "'diskSizeGb'"),
    (KUBERAY, "nodeSelector", "nodeSelectr", "problem", f"{TYPES}.gpu-spot.node_config.nodeSelectr", "Kubernetes knows no", "'nodeSelector'"),
    (KUBERAY, "key: nvidia.com/gpu", "kei: nvidia.com/gpu", "problem", f"{TYPES}.gpu-spot.node_config.tolerations.0.kei", "Kubernetes knows no", "'key'"),
    (KUBERAY, "GracePeriodSeconds: 25", "GracePeriodSeconds: soon", "problem", f"{TYPES}.gpu-spot.node_config.terminationGracePeriodSeconds", "refuse", ""),
    (KUBERAY, "cluster_name: fgray", "cluster_name: My_Cluster", "problem", "cluster_name", "Kubernetes would refuse it", ""),
    # open doors
    (AWS, "  region: us-west-2\n", "  region: us-west-2\n  security_group: {GroupName: a, IpPermissions: [{FromPort: 22, ToPort: 22, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n",
     "problem", "provider.security_group.IpPermissions.0", "the ports 22–22 are open to the world", "name the addresses"),
    (AWS, "  region: us-west-2\n", "  region: us-west-2\n  security_group: {GroupName: a, IpPermissions: [{IpProtocol: '-1', Ipv6Ranges: [{CidrIpv6: '::/0'}]}]}\n",
     "problem", "provider.security_group.IpPermissions.0", "the ports all–all are open to the world", "name the addresses"),
    (AWS, "SecurityGroupIds: &closed [sg-0a1b2c3d4e5f60718]", "Tenancy: &closed x", "problem", f"{TYPES}.head.node_config", "opens SSH to 0.0.0.0/0", "SecurityGroupIds"),
    (AWS, HEAD_COMMAND, "--dashboard-host=0.0.0.0", "problem", "head_start_ray_commands.1", "listens on all addresses", "127.0.0.1"),
    (AWS, HEAD_COMMAND, "--dashboard-host '::'", "problem", "head_start_ray_commands.1", "listens on all addresses", "127.0.0.1"),
    (AWS, "head_start_ray_commands:", "initialization_commands:", "problem", "the file", "no head_start_ray_commands", "state head_start_ray_commands"),
    (GCP, "      networkInterfaces: &private\n        - subnetwork: projects/my-project/regions/us-central1/subnetworks/fgray\n", "      labels: &private {}\n",
     "problem", f"{TYPES}.head.node_config", "with a public address", "networkInterfaces"),
    (GCP, "subnetworks/fgray\n", "subnetworks/fgray\n          accessConfigs: [{type: ONE_TO_ONE_NAT}]\n", "note", f"{TYPES}.head.node_config.networkInterfaces.0", "has a public address", "IAP"),
    (KUBERAY, "      terminationGracePeriodSeconds: 25", "      hostNetwork: true", "problem", f"{TYPES}.gpu-spot.node_config.hostNetwork", "belongs to its machine", "remove it"),
    (KUBERAY, 'limits: {cpu: "3"}}', 'limits: {cpu: "3"}}\n          securityContext: {privileged: true}', "problem", f"{TYPES}.head.node_config.containers.0", "is privileged", "remove"),
    (KUBERAY, 'limits: {cpu: "3"}}', 'limits: {cpu: "3"}}\n          ports: [{containerPort: 1, hostPort: 1}]', "problem", f"{TYPES}.head.node_config.containers.0", "hostPort", "port-forward"),
    # authentication
    (AWS, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "problem", "head_start_ray_commands.1", "authentication is switched off", "RAY_AUTH_MODE=token"),
    (AWS, "RAY_AUTH_MODE=token", "OTHER=1", "problem", "head_start_ray_commands.1", "whoever reaches a port runs code", "export RAY_AUTH_MODE=token"),
    (AWS, "  /home/ray/fgray-token: ~", "  /home/ray/other: ~", "problem", "file_mounts", "no token gets to the nodes", "~/.fgray/clusters/aws-l4-spot/token"),
    (AWS, "cluster_name: aws-l4-spot", "cluster_name: mine", "problem", "file_mounts./home/ray/fgray-token", "of another cluster", "clusters/mine/"),
    # disks and images
    (AWS, "Encrypted: true", "Encrypted: false", "problem", f"{TYPES}.head.node_config.BlockDeviceMappings.0", "the disk is not encrypted", "Encrypted: true"),
    (AWS, "ImageId: &ami resolve", "KernelId: &ami resolve", "problem", f"{TYPES}.head.node_config", "no ImageId", "state the AMI"),
    (AWS, "/latest/ami-id", "/latest/ami-id", "note", f"{TYPES}.head.node_config.ImageId", "follows a parameter", "pin it"),
    (AWS, "HttpTokens: required", "HttpTokens: optional", "note", f"{TYPES}.head.node_config", "IMDSv1", "HttpTokens: required"),
    (AWS, "ray:2.60.0-py311-gpu", "ray:latest", "problem", "docker.image", "is whatever was pushed last", "pin it"),
    (AWS, "ray:2.60.0-py311-gpu", "ray", "problem", "docker.image", "is whatever was pushed last", "pin it"),
    (GCP, "sourceImage:", "diskName:", "problem", f"{TYPES}.head.node_config", "no sourceImage on a boot disk", "sourceImage"),
    (KUBERAY, "docker:\n  image: rayproject/ray:2.60.0-py311-gpu", "docker:\n  pull_before_run: true", "problem", "docker", "no image for the pods of 'head'", "docker.image"),
    # limits
    (AWS, "max_workers: 8", "metadata: {}", "problem", "the file", "the cluster states no maximum of workers", "max_workers: N"),
    (AWS, "    max_workers: 4\n", "", "problem", f"{TYPES}.gpu-spot", "the node type 'gpu-spot' states no maximum", "max_workers: N"),
    (AWS, "    min_workers: 0\n    max_workers: 4\n", "    min_workers: 5\n    max_workers: 4\n", "problem", f"{TYPES}.gpu-spot", "more workers at least (5) than at most (4)", ""),
    (AWS, "idle_timeout_minutes: 5", "metadata: {}", "problem", "the file", "no idle timeout is stated", "idle_timeout_minutes: 5"),
    (AWS, "idle_timeout_minutes: 5", "idle_timeout_minutes: 600", "note", "idle_timeout_minutes", "for 600 minutes", ""),
    (AWS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "note", "provider", "stopped, not terminated", "cache_stopped_nodes: false"),
    (AWS, "resources: {CPU: 0,", "resources: {CPU: 4,", "note", f"{TYPES}.head.resources", "the head takes work", "CPU: 0"),
    (AWS, "resources: {CPU: 4, GPU: 1, memory: 10737418240, object_store_memory: 3221225472}", "resources: {}", "problem", f"{TYPES}.gpu-spot", "the resources of 'gpu-spot' are not stated", "resources"),
    (AWS, "InstanceType: m7i.xlarge", "InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}", "problem", f"{TYPES}.head", "the head is a spot machine", "on demand"),
    # money
    (AWS, "g6.xlarge: {on_demand: 0.8048, spot: 0.33}", "g6.xlarge: {on_demand: 0.8048}", "problem", f"{TYPES}.gpu-spot", "has no spot price", "prices.'g6.xlarge'"),
    (AWS, "c7i.2xlarge: {on_demand: 0.357, spot: 0.15}", "other: {on_demand: 1}", "note", f"{TYPES}.decode-on-demand", "has no price", "prices.'c7i.2xlarge'"),
    (AWS, "    max_workers: 2\n", "    max_workers: 0\n", "note", f"{TYPES}.gpu-spot", "no on-demand type to fall back on", "without spot"),
    (AWS, "    priority: 1 ", "    priority: 0 ", "note", f"{TYPES}.gpu-spot", "on-demand nodes may be started before 'gpu-spot'", "priority: 1"),
    (AWS, " RAY_JOB_START_TIMEOUT_SECONDS=3600;", ";", "note", "head_start_ray_commands", "longer than 15 minutes", "RAY_JOB_START_TIMEOUT_SECONDS=3600"),
    # secrets and what nobody resolves
    (KUBERAY, "{name: AWS_REGION, value: auto}", "{name: AWS_SECRET_ACCESS_KEY, value: hunter2}", "problem", f"{TYPES}.head.node_config.containers.0.env.1.value", "'AWS_SECRET_ACCESS_KEY' holds a secret", "0600"),
    (GCP, "      machineType: n2-standard-4", "      machineType: n2-standard-4\n      metadata: {items: [{key: hf-token, value: hunter2}]}", "problem", f"{TYPES}.head.node_config.metadata.items.0.value", "'hf-token' holds a secret", "0600"),
    (AWS, "ulimit -n 65536;", "export AWS_ACCESS_KEY_ID=AKIAABCDEFGHIJKLMNOP;", "problem", "head_start_ray_commands.1", "an AWS access key stands in the file", "0600"),
    (AWS, "ulimit -n 65536;", "export RAY_AUTH_TOKEN=abcdef;", "problem", "head_start_ray_commands.1", "a secret stands in the file", "0600"),
    (AWS, "--ulimit nofile=65536:65536", "--env WANDB_API_KEY='abcdef'", "problem", "docker.run_options.0", "a secret stands in the file", "0600"),
    (AWS, "--ulimit nofile=65536:65536", "--env HTTPS_PROXY=http://me:pass@proxy", "problem", "docker.run_options.0", "a password in an address", "0600"),
    (AWS, "  region: us-west-2\n", "  region: us-west-2\n  aws_credentials: {aws_access_key_id: x}\n", "problem", "provider.aws_credentials", "credentials stand in the file", "role"),
    (GCP, "      machineType: n2-standard-4", "      machineType: n2-standard-4\n      labels: {password: hunter2}", "problem", f"{TYPES}.head.node_config.labels.password", "holds a secret", "0600"),
    (AWS, "Name: fgray-head", "Name: '${ROLE}'", "problem", f"{TYPES}.head.node_config.IamInstanceProfile.Name", "Ray resolves no variables", "write the value"),
    (AWS, "sg-0a1b2c3d4e5f60718", "sg-REPLACE", "problem", f"{TYPES}.head.node_config.SecurityGroupIds.0", "'sg-REPLACE' is a placeholder (and in 4 more places)", "README"),
]  # fmt: skip


@cache
def unbroken(name: str) -> list[Finding]:
    with TemporaryDirectory() as folder:
        return findings(Path(folder), text_of(name))


@pytest.mark.parametrize(("name", "old", "new", "level", "where", "what", "fix"), BROKEN)
def test_every_rule_fires_on_a_broken_copy(tmp_path, name, old, new, level, where, what, fix):
    text = text_of(name)
    assert old in text
    broken = (
        text.replace(old, new) if old in ("RAY_AUTH_MODE=token", "Encrypted: true", "    max_workers: 2\n") else text.replace(old, new, 1)
    )
    if level == "refused":
        with pytest.raises(ConfigError, match=what):
            findings(tmp_path, broken)
        return
    found = findings(tmp_path, broken)
    assert any(f.level == level and f.where == where and what in f.what and fix in f.fix for f in found), "\n".join(map(str, found))
    if broken != text:
        assert not any(f.level == level and what in f.what for f in unbroken(name))


def test_a_gpu_without_a_price_is_a_problem_whatever_the_resources_say(tmp_path):
    text = text_of(AWS).replace("GPU: 1, memory", "memory").replace("g6.xlarge: {on_demand: 0.8048, spot: 0.33}", "other: {on_demand: 1}")
    levels = {finding.where: finding.level for finding in findings(tmp_path, text) if "price" in finding.what}
    assert levels[f"{TYPES}.gpu-spot"] == levels[f"{TYPES}.gpu-on-demand"] == "problem"


@pytest.mark.parametrize("harmless", ["TOKENIZERS_PARALLELISM=false", "MAX_TOKENS=77", "HF_TOKEN_PATH=/home/ray/token"])
def test_what_only_sounds_like_a_secret_is_none(tmp_path, harmless):
    text = text_of(AWS).replace("--ulimit nofile=65536:65536", f"--env {harmless}")
    assert not any("secret" in finding.what for finding in findings(tmp_path, text))


def test_what_was_found_never_shows_the_secret(tmp_path):
    text = text_of(AWS).replace("ulimit -n 65536;", "export MY_SECRET_KEY=zQ81swordfish;", 1)
    found = findings(tmp_path, text)
    assert any("a secret" in finding.what for finding in found)
    assert not any("swordfish" in str(finding) for finding in found)


def test_a_finding_names_its_line(tmp_path):
    text = text_of(AWS).replace("  region: us-west-2\n", "  region: us-west-2\n  regoin: x\n")
    line = text.splitlines().index("  regoin: x") + 1
    (finding,) = [finding for finding in findings(tmp_path, text) if finding.where == "provider.regoin"]
    assert finding.place == f"{tmp_path}/cluster.yaml:{line}"
    assert str(finding).startswith("problem: Ray's aws provider knows no 'regoin' [provider.regoin, ")


def test_whatever_starts_nodes_refuses_a_file_with_problems(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(text_of(AWS).replace("max_workers: 8", "metadata: {}"))
    with pytest.raises(ConfigError, match="states no maximum of workers"):
        refuse_problems(load_cluster(str(path)))
    path.write_text(text_of(AWS))
    refuse_problems(load_cluster(str(path)))  # notes do not count
