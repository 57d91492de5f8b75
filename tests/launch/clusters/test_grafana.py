"""The dashboard asks for metrics that Ray or fgray's own counters export, and for nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[3]
GRAFANA = PROJECT / "cluster" / "grafana"


def ray_source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text()


def dashboard() -> dict:
    return json.loads((GRAFANA / "fgray.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def test_panels_have_places_and_names_of_their_own():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)


def test_rays_metrics_are_those_of_rays_own_dashboard():
    used = {name for text in expressions() for name in re.findall(r"\b(?:ray|autoscaler)_\w+", text) if not name.startswith("ray_fgray_")}
    known = ray_source("ray.dashboard.modules.metrics.dashboards.default_dashboard_panels")
    assert used and all(re.search(rf"\b{name}\b", known) for name in used), used


def test_fgrays_metrics_are_those_that_the_engine_counts():
    used = {name for text in expressions() for name in re.findall(r"\bray_fgray_\w+", text)}
    source = "\n".join(path.read_text() for path in (PROJECT / "fgray" / "engine").glob("*.py"))
    counted = set(re.findall(r"Counter\(\s*\"(\w+)\"", source))
    exported = {f"ray_{name}" if name.endswith("_total") else f"ray_{name}_total" for name in counted}
    assert used == exported


def test_prometheus_reads_the_list_of_nodes_that_ray_keeps():
    (job,) = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    (files,) = job["file_sd_configs"]
    name = Path(files["files"][0]).name
    assert f'"{name}"' in ray_source("ray._private.ray_constants") or name in ray_source("ray._private.ray_constants")
