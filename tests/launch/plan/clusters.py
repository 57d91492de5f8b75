"""Cluster files of tests."""

from __future__ import annotations

from pathlib import Path

from fgray.launch.clusters.file import ClusterFile, load_cluster

AWS = """
cluster_name: small
max_workers: 6
idle_timeout_minutes: 6
provider:
  type: aws
  region: us-west-2
  fgray:
    prices:
      m7i.xlarge: {on_demand: 0.2}
      g6.xlarge: {on_demand: 0.8, spot: 0.3}
      c7i.2xlarge: {on_demand: 0.4}
    s3_gbps: 8
head_node_type: head
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {InstanceType: m7i.xlarge}
  gpu:
    resources: {CPU: 4, GPU: 1}
    max_workers: 4
    node_config: {InstanceType: g6.xlarge, InstanceMarketOptions: {MarketType: spot}}
  decode:
    resources: {CPU: 8}
    max_workers: 2
    node_config: {InstanceType: c7i.2xlarge}
"""


def write_cluster(folder: Path, text: str = AWS) -> ClusterFile:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_cluster(str(path))
