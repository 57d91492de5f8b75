"""The manifests against KubeRay's and Kubernetes' fields, and against what Ray's own autoscaler makes of them."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

import fgray
from fgray.cli_cluster import app
from fgray.errors import ConfigError
from fgray.launch.clusters.file import load_cluster
from fgray.launch.clusters.kuberay import manifests, schema

PROJECT = Path(__file__).resolve().parents[3]
SHIPPED = PROJECT / "cluster" / "kuberay.yaml"
JOB = "{job: eval, name: e, model: {kind: tiny}, benchmarks: [{name: spec, root: 's3://b/spec'}], output: 's3://b/runs/e'}\n"


def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema(), "$ref": f"#/$defs/{kind}"})


@pytest.fixture
def with_image(tmp_path) -> str:
    """A file whose pods bring fgray with them."""
    path = tmp_path / "cluster.yaml"
    text = SHIPPED.read_text().replace("  fgray:\n", "  fgray:\n    dependencies: image\n", 1)
    path.write_text(text.replace("rayproject/ray:2.60.0-py311-gpu", "registry.example.org/fgray:1.2", 1))
    return str(path)


@pytest.fixture
def job(tmp_path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


def test_the_cluster_is_what_kuberays_resource_allows():
    wall, cluster = manifests(load_cluster(str(SHIPPED)))
    validator("RayCluster").validate(cluster)
    assert (wall["kind"], wall["apiVersion"]) == ("NetworkPolicy", "networking.k8s.io/v1")


@pytest.mark.parametrize(
    "typo",
    [
        lambda spec: spec.update(enableInTreeAutoscalin=True),
        lambda spec: spec["authOptions"].update(mode="tokens"),
        lambda spec: spec["workerGroupSpecs"][0].update(maxReplica=3),
        lambda spec: spec["workerGroupSpecs"][0].pop("groupName"),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),  # its values are text
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(imag="x"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContext"].update(runAsNonRot=True),
        lambda spec: spec["headGroupSpec"]["template"].update(status={}),
    ],
)
def test_the_schema_refuses_what_kubernetes_would_drop_or_refuse(typo):
    cluster = copy.deepcopy(manifests(load_cluster(str(SHIPPED)))[1])
    typo(cluster["spec"])
    assert not validator("RayCluster").is_valid(cluster)


def test_rays_autoscaler_reads_the_same_types_from_the_manifest_as_we_from_the_file():
    file = load_cluster(str(SHIPPED))
    derived = _derive_autoscaling_config_from_ray_cr(manifests(file)[1])
    validate_config(prepare_config(derived))
    assert derived["idle_timeout_minutes"] == file.content["idle_timeout_minutes"]
    assert derived["provider"]["namespace"] == "fgray"
    types = derived["available_node_types"]
    assert types.pop("headgroup")["resources"]["CPU"] == file.head.resources["CPU"] == 0
    assert list(types) == [node.name for node in file.node_types if not node.head]
    for node in file.node_types:
        if not node.head:
            found = types[node.name]
            assert found["resources"] == dict(node.resources)
            assert (found["min_workers"], found["max_workers"]) == (node.min_workers, node.max_workers)


def test_resources_of_ones_own_reach_rays_autoscaler(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(SHIPPED.read_text().replace("{CPU: 7, memory", "{CPU: 7, decoder: 2, object_store_memory: 1000000000, memory", 1))
    cluster = manifests(load_cluster(str(path)))[1]
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert types["decode-spot"]["resources"]["decoder"] == 2
    params = {group["groupName"]: group["rayStartParams"] for group in cluster["spec"]["workerGroupSpecs"]}
    assert params["decode-spot"]["object-store-memory"] == "1000000000"


def test_pods_ask_for_a_token_and_have_no_more_rights_than_they_need():
    spec = manifests(load_cluster(str(SHIPPED)))[1]["spec"]
    assert (
        spec["authOptions"] == {"mode": "token"}
        and spec["autoscalerOptions"]["version"] == "v2"
        and spec["enableInTreeAutoscaling"] is True
    )
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    for template in templates:
        pod = template["spec"]
        (container,) = pod["containers"]
        context = container["securityContext"]
        assert (
            context["allowPrivilegeEscalation"] is False
            and context["runAsNonRoot"] is True
            and context["capabilities"] == {"drop": ["ALL"]}
        )
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert container["resources"]["limits"] == container["resources"]["requests"]
        # KubeRay adds the token by reference, and the bucket's keys stand in a Secret.
        assert {one["name"] for one in container["env"]} <= {"AWS_ENDPOINT_URL", "AWS_REGION", "RAY_JOB_START_TIMEOUT_SECONDS"}
        assert container["envFrom"] == [{"secretRef": {"name": "fgray-s3"}}]
    assert all(template["spec"]["automountServiceAccountToken"] is False for template in templates[1:])
    assert [template["spec"]["serviceAccountName"] for template in templates] == ["fgray-head", *["fgray-node"] * 4]
    waits = [[one["value"] for one in t["spec"]["containers"][0]["env"] if one["name"].startswith("RAY_JOB_START")] for t in templates]
    assert waits == [["3600"], [], [], [], []]  # the job server runs on the head


def test_the_wall_lets_in_the_clusters_own_pods_and_only_to_its_dashboard_others():
    file = load_cluster(str(SHIPPED))
    wall, cluster = manifests(file)
    selected = wall["spec"]["podSelector"]["matchLabels"]
    template = cluster["spec"]["workerGroupSpecs"][0]["template"]
    assert selected.items() <= template["metadata"]["labels"].items()
    own, others = wall["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": selected}}]}
    assert others["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_a_job_brings_its_configuration_and_ends_its_cluster(with_image, job):
    wall, config, described = manifests(load_cluster(with_image), job)
    validator("RayJob").validate(described)
    spec = described["spec"]
    assert (spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == (True, 0)
    (mount,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert spec["entrypoint"] == f"python -m fgray submit {mount['mountPath']}/config.yaml --cluster local"
    assert config["kind"] == "ConfigMap" and yaml.safe_load(config["data"]["config.yaml"]) == yaml.safe_load(JOB)
    (volume,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert yaml.safe_load(environment["FGRAY_CLUSTER"])["most"]["GPU"] == 6
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": described["metadata"], "spec": spec["rayClusterSpec"]})
    assert derived["max_workers"] == 12


def test_a_job_has_the_variables_and_values_of_whoever_makes_its_manifest(with_image, job, monkeypatch):
    Path(job).write_text(JOB.replace("s3://b/spec", "s3://${FGRAY_TEST_BUCKET}/spec"))
    monkeypatch.setenv("FGRAY_TEST_BUCKET", "mine")
    _, config, described = manifests(load_cluster(with_image), job, ["output=s3://b/runs/other"])
    assert yaml.safe_load(config["data"]["config.yaml"])["output"] == "s3://b/runs/other"
    assert yaml.safe_load(described["spec"]["runtimeEnvYAML"])["env_vars"]["FGRAY_TEST_BUCKET"] == "mine"
    Path(job).write_text(JOB.replace("s3://b/spec", "s3://${FGRAY_TEST_SECRET}/spec"))
    monkeypatch.setenv("FGRAY_TEST_SECRET", "mine")
    with pytest.raises(ConfigError, match="FGRAY_TEST_SECRET looks like a secret"):
        manifests(load_cluster(with_image), job)
    told = CliRunner().invoke(app, ["manifest", with_image, "--job", job, "--set", "benchmarks.0.root=s3://b/spec", "--set", "name=other"])
    assert told.exit_code == 0 and "name: other" in told.output


def test_a_job_is_refused_where_it_could_not_run_or_would_lose_its_results(with_image, job, tmp_path):
    with pytest.raises(ConfigError, match="a RayJob runs what its image has"):
        manifests(load_cluster(str(SHIPPED)), job)
    Path(job).write_text(JOB.replace("s3://b/runs/e", "runs/e"))
    with pytest.raises(ConfigError, match="results would vanish"):
        manifests(load_cluster(with_image), job)
    with pytest.raises(ConfigError, match="manifests are for Kubernetes, not for external"):
        manifests(load_cluster(str(PROJECT / "cluster" / "local-multinode.yaml")))


def test_the_printed_manifest_is_the_same_objects(with_image, job):
    assert list(yaml.safe_load_all(fgray.cluster_manifest(with_image, job))) == manifests(load_cluster(with_image), job)
    assert "&id" not in fgray.cluster_manifest(with_image, job)  # plain YAML, without aliases
