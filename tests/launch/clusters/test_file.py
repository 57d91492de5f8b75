from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from fgray.errors import ConfigError
from fgray.launch.clusters.file import ClusterFile, load_cluster

AWS = """
cluster_name: mine
max_workers: 5
provider:
  type: aws
  region: us-west-2
  fgray:
    prices:
      m7i.large: {on_demand: 0.1}
      g6.xlarge: {on_demand: 0.8, spot: 0.3}
      c7i.xlarge: {on_demand: 0.2, spot: 0.07}
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {InstanceType: m7i.large}
  spot:
    resources: {CPU: 4, GPU: 1}
    min_workers: 1
    max_workers: 4
    node_config: {InstanceType: g6.xlarge, InstanceMarketOptions: {MarketType: spot}}
  fallback:
    resources: {CPU: 4, GPU: 1}
    max_workers: 2
    node_config: {InstanceType: g6.xlarge}
  decode:
    resources: {CPU: 4}
    node_config: {InstanceType: c7i.xlarge, InstanceMarketOptions: {MarketType: spot}}
head_node_type: head
"""


def load(tmp_path: Path, text: str) -> ClusterFile:
    path = tmp_path / "cluster.yaml"
    path.write_text(dedent(text))
    return load_cluster(str(path))


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_node_types_are_read_with_machine_price_and_maximum(tmp_path):
    cluster = load(tmp_path, AWS)
    assert (cluster.name, cluster.provider, cluster.max_workers) == ("mine", "aws", 5)
    head, spot, fallback, decode = cluster.node_types
    assert cluster.head is head and (head.head, head.machine, head.price, head.max_workers) == (True, "m7i.large", 0.1, 0)
    assert (spot.machine, spot.spot, spot.price, spot.min_workers, spot.max_workers) == ("g6.xlarge", True, 0.3, 1, 4)
    assert (fallback.spot, fallback.price) == (False, 0.8)
    assert decode.max_workers == 5  # as Ray: the maximum of the cluster
    assert cluster.content["provider"]["region"] == "us-west-2"
    assert cluster.where(("available_node_types", "spot", "max_workers")).endswith("cluster.yaml:19")


def test_the_most_that_a_cluster_can_have_obeys_both_maxima(tmp_path):
    cluster = load(tmp_path, AWS)
    assert cluster.most("GPU") == 5  # four spot and one of two on demand: five workers in all
    assert cluster.most("CPU") == 20
    assert cluster.most("TPU") == 0
    assert cluster.resources == {"CPU": 20, "GPU": 5}


def test_the_heads_own_resources_count_once(tmp_path):
    text = AWS.replace("resources: {CPU: 0}", "resources: {CPU: 8}")
    assert load(tmp_path, text).most("CPU") == 28


def test_an_hour_costs_from_the_minimum_to_the_dearest_workers(tmp_path):
    least, most = load(tmp_path, AWS).hourly_cost()
    assert least == pytest.approx(0.1 + 0.3)
    assert most == pytest.approx(0.1 + 2 * 0.8 + 3 * 0.3)
    assert load(tmp_path, AWS.replace("m7i.large: {on_demand: 0.1}", "other: {on_demand: 0.1}")).hourly_cost() is None


def test_a_spot_type_without_spot_price_has_no_price(tmp_path):
    cluster = load(tmp_path, AWS.replace("g6.xlarge: {on_demand: 0.8, spot: 0.3}", "g6.xlarge: {on_demand: 0.8}"))
    assert [node.price for node in cluster.node_types] == [0.1, None, 0.8, 0.07]


@pytest.mark.parametrize(
    ("config", "machine", "spot"),
    [
        ("{machineType: g2-standard-8, scheduling: {provisioningModel: SPOT}}", "g2-standard-8", True),
        ("{machineType: zones/us-west1-a/machineTypes/g2-standard-8, scheduling: [{preemptible: true}]}", "g2-standard-8", True),
        ("{machineType: n2-standard-4, scheduling: {preemptible: false}}", "n2-standard-4", False),
        ("{nodeSelector: {node.kubernetes.io/instance-type: g6.xlarge, karpenter.sh/capacity-type: spot}}", "g6.xlarge", True),
        ("{nodeSelector: {cloud.google.com/gke-spot: 'true'}}", None, True),
        ("{}", None, False),
    ],
)
def test_machines_and_spot_are_told_from_every_providers_own_words(tmp_path, config, machine, spot):
    text = f"""
        cluster_name: a
        provider: {{type: any}}
        available_node_types:
          head: {{resources: {{CPU: 1}}, node_config: {config}}}
        head_node_type: head
    """
    node = load(tmp_path, text).head
    assert (node.machine, node.spot) == (machine, spot)


def test_a_price_may_be_stated_for_a_node_type(tmp_path):
    text = AWS.replace("g6.xlarge: {on_demand: 0.8, spot: 0.3}", "spot: {on_demand: 2, spot: 1}")
    assert load(tmp_path, text).node_types[1].price == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cluster_name: mine", "", "'cluster_name' is missing [cluster.yaml:3]: add it (a name of its own for this cluster)"),
        ("type: aws", "", "'provider.type' is missing [cluster.yaml:4]: add it (aws, gcp, kuberay, external or local)"),
        (
            "head_node_type: head",
            "head_node_type: haed",
            "head_node_type 'haed' is none of available_node_types [cluster.yaml:28]: did you",
        ),
        ("prices:", "price:", "unknown key 'provider.fgray.price' [cluster.yaml:8]: did you mean 'prices'?"),
        ("spot: 0.3", "sport: 0.3", "unknown key 'provider.fgray.prices.g6.xlarge.sport' [cluster.yaml:10]: did you mean 'spot'?"),
        ("max_workers: 5", "max_workers: many", "max_workers must be a whole number, not 'many' [cluster.yaml:3]: most workers of"),
        ("{CPU: 0}", "{CPU: -1}", "available_node_types.head.resources.CPU must be greater than or equal to 0, not -1 [cluster.yaml:14]"),
        ("  region: us-west-2", "  region: us-west-2\n  region: eu", "duplicate key 'region' [cluster.yaml:7]: it also stands on line 6"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place_and_remedy(tmp_path, old, new, message):
    assert old in AWS
    assert refused(tmp_path, AWS.replace(old, new, 1)).startswith(message)


def test_a_missing_file_names_a_similar_one(tmp_path):
    (tmp_path / "aws-spot.yaml").write_text(AWS)
    with pytest.raises(ConfigError, match=r"the cluster file does not exist .*did you mean '.*aws-spot\.yaml'"):
        load_cluster(str(tmp_path / "aws-sport.yaml"))


def test_a_folder_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        load_cluster(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_cluster(str(tmp_path / "binary.yaml"))
