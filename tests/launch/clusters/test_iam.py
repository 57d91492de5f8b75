"""The rights under cluster/iam: real actions, nothing by the dozen, and what the cluster files name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader

from fgray.launch.clusters.file import load_cluster

CLUSTERS = Path(__file__).resolve().parents[3] / "cluster"
IAM = CLUSTERS / "iam"
POLICIES = ["aws-head.json", "aws-launcher.json", "aws-node.json"]
# S3's actions are not named after its operations (https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html).
S3_ACTIONS = {"ListBucket", "GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"}


def statements(name: str) -> list[dict[str, Any]]:
    content = json.loads((IAM / name).read_text())
    assert content["Version"] == "2012-10-17"
    return content["Statement"]


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def statement(name: str, sid: str) -> dict[str, Any]:
    (found,) = [item for item in statements(name) if item["Sid"] == sid]
    return found


@pytest.mark.parametrize("path", sorted(IAM.glob("*.json")), ids=lambda path: path.name)
def test_files_are_json(path):
    assert json.loads(path.read_text())


@pytest.mark.parametrize("name", [*POLICIES, "aws-bucket.json", "aws-trust.json"])
def test_sids_are_what_aws_takes(name):
    sids = [item["Sid"] for item in statements(name)]
    assert len(set(sids)) == len(sids) and all(re.fullmatch("[A-Za-z0-9]+", sid) for sid in sids)


@pytest.mark.parametrize("name", POLICIES)
def test_actions_exist_and_are_named_one_by_one(name):
    known = {service: set(Loader().load_service_model(service, "service-2")["operations"]) for service in ("ec2", "ssm")}
    known["s3"], known["iam"] = S3_ACTIONS, {"PassRole"}
    for item in statements(name):
        assert item["Effect"] == "Allow"
        for action in as_list(item["Action"]):
            service, _, operation = action.partition(":")
            assert operation in known[service], action


@pytest.mark.parametrize("name", POLICIES)
def test_only_looking_is_allowed_on_everything(name):
    for item in statements(name):
        if "*" in as_list(item["Resource"]):
            assert all(re.match("ec2:Describe", action) for action in as_list(item["Action"]))


def test_nodes_read_the_data_and_write_only_the_runs():
    writes = [r for s in statements("aws-node.json") if "s3:PutObject" in as_list(s["Action"]) for r in as_list(s["Resource"])]
    assert writes == ["arn:aws:s3:::REPLACE-BUCKET/runs/*"]
    reads = [r for s in statements("aws-node.json") if "s3:GetObject" in as_list(s["Action"]) for r in as_list(s["Resource"])]
    assert set(reads) == {"arn:aws:s3:::REPLACE-BUCKET/data/*", "arn:aws:s3:::REPLACE-BUCKET/runs/*"}


def test_the_head_starts_the_machines_of_its_file_and_no_others():
    file = load_cluster(str(CLUSTERS / "aws-l4-spot.yaml"))
    workers = {node.machine for node in file.node_types if not node.head}
    allowed = statement("aws-head.json", "StartWorkersOfThisClusterOnly")["Condition"]["StringEquals"]
    assert set(allowed["ec2:InstanceType"]) == workers
    assert allowed["aws:RequestTag/ray-cluster-name"] == file.name
    stops = statement("aws-head.json", "StopAndMarkMachinesOfThisCluster")
    assert stops["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": file.name}}
    launcher = statement("aws-launcher.json", "StartTheHeadOfThisCluster")["Condition"]["StringEquals"]
    assert launcher["ec2:InstanceType"] == [file.head.machine]


def test_roles_are_passed_on_by_the_names_of_the_file():
    types = load_cluster(str(CLUSTERS / "aws-l4-spot.yaml")).content["available_node_types"]
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in types.items()}
    assert profiles.pop("head") == statement("aws-launcher.json", "GiveTheHeadItsRole")["Resource"].rpartition("/")[2]
    passed = statement("aws-head.json", "GiveWorkersTheirRoleAndNoOther")["Resource"].rpartition("/")[2]
    assert set(profiles.values()) == {passed}


def test_the_bucket_refuses_plain_http_and_strangers():
    denied = {tuple(sorted(item["Condition"])): item for item in statements("aws-bucket.json")}
    assert all(item["Effect"] == "Deny" and item["Principal"] == "*" and item["Action"] == "s3:*" for item in denied.values())
    assert all(len(item["Resource"]) == 2 for item in denied.values())  # the bucket itself and what is in it
    assert denied[("Bool",)]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert ("Bool", "StringNotEquals") in denied
    assert set(json.loads((IAM / "aws-bucket-public-access.json").read_text()).values()) == {True}


def test_gcp_rights_are_named_one_by_one_and_end_at_a_prefix():
    permissions = json.loads((IAM / "gcp-head-role.json").read_text())["includedPermissions"]
    assert permissions == sorted(permissions) and not any("*" in name or "setIamPolicy" in name for name in permissions)
    for prefix in ("data", "runs"):
        condition = json.loads((IAM / f"gcp-{prefix}-condition.json").read_text())
        assert condition["title"] == prefix
        assert f"startsWith('projects/_/buckets/REPLACE-BUCKET/objects/{prefix}/')" in condition["expression"]


def test_the_readme_makes_every_account_and_uses_every_file():
    readme = (CLUSTERS / "README.md").read_text()
    emails = set(re.findall(r"(fgray-\w+)@REPLACE-PROJECT\.iam\.gserviceaccount\.com", (CLUSTERS / "gcp-l4-spot.yaml").read_text()))
    assert all(f"service-accounts create {account} " in readme for account in emails)
    for path in IAM.glob("*.json"):
        named = path.name.replace("gcp-data-", "gcp-${right%%:*}-").replace("gcp-runs-", "gcp-${right%%:*}-")
        assert f"iam/{named}" in readme, path.name


def test_what_the_readme_names_exists_and_costs_what_the_files_say():
    readme = (CLUSTERS / "README.md").read_text()
    for path in re.findall(r"(?<!my/)\b((?:configs|cluster)/[\w./-]+\.(?:yaml|sh|json))", readme):
        assert (CLUSTERS.parent / path).is_file(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (CLUSTERS / path).is_file(), path
    for path in CLUSTERS.glob("*.yaml"):
        cost = load_cluster(str(path)).hourly_cost() if path.name != "prometheus.yaml" else None
        if cost is not None:
            (row,) = [line for line in readme.splitlines() if line.startswith(f"| [{path.name}]")]
            assert row.endswith(f"| {cost[0]:.2f} USD | {cost[1]:.2f} USD |")
