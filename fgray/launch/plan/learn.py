"""Takes over what a finished run measured, so that the next plan is nearer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgray.embedding import TEXT
from fgray.launch.plan.calibration import Calibration, rate_key, run_id
from fgray.launch.plan.place import device_on
from fgray.launch.plan.rates import STAGES, weight_of
from fgray.launch.plan.training import PAIR, STEP
from fgray.runs import RunFolder

_JOBS = ("eval", "mine", "train_clip")  # the kinds whose model and devices a plan knows


def learn_from(uri: str, calibration: Calibration | None = None) -> bool:
    """Take over the rates of a finished run; looking at the same run twice changes nothing.

    Args:
        uri: the run folder.
        calibration: where to; default: the user's file.

    Returns:
        whether the run had measured anything.

    Raises:
        FgrayError: the folder is no run.
    """
    found = Calibration() if calibration is None else calibration
    if not learn(uri, RunFolder(uri).read_run(), found):
        return False
    found.save()
    return True


def learn(uri: str, run: Mapping[str, Any], calibration: Calibration) -> bool:
    """Take over what run.json says was measured; the file is not written yet."""
    if run.get("job") not in _JOBS:
        return False
    timing: Mapping[str, Any] = run.get("timing") or {}
    device, name = _device(run), run_id(uri, run)
    if device is None:
        return False
    device = device_on(device, (run.get("plan") or {}).get("place") or "this machine")
    card, compute = run["model"]["card"], run.get("compute") or {}
    if timing.get("pairs_per_second"):
        key = rate_key(device, card["architecture"], compute["precision"], compute["threads"])
        weight = (run.get("plan") or {}).get("gflop_per_pair")
        if not weight:
            return False
        pairs = timing["pairs"]
        calibration.add(name, key, PAIR, STEP, pairs, pairs * compute["workers"] / timing["pairs_per_second"], weight)
        return True
    kinds: Mapping[str, Mapping[str, Any]] = timing.get("by_kind") or {}
    key = rate_key(device, card["architecture"], card["dtype"], compute.get("threads", 1))
    planned = (run.get("plan") or {}).get("kinds") or {}
    for kind, one in kinds.items():
        for stage in STAGES:
            if one.get("items") and stage in one and not (stage == "decode" and kind == TEXT):
                weight = weight_of(kind, stage, float((planned.get(kind) or {}).get("bytes") or 0.0))
                calibration.add(name, key, kind, stage, one["items"], one[stage], weight)
    start = (run.get("plan") or {}).get("startup_key")
    if start and kinds and timing.get("startup_seconds"):
        calibration.add_startup(name, start, timing["startup_seconds"])
    return bool(kinds)


def _device(run: Mapping[str, Any]) -> str | None:
    """Return the device that computed: of a cluster's run what its parts say."""
    compute = run.get("compute") or {}
    if run.get("job") == "train_clip":
        starts = (run.get("timing") or {}).get("starts") or []
        if any(one["workers"] != compute["workers"] for one in starts):  # fewer for a while: the rate is of no number of workers
            return None
        devices = {one["device"] for one in starts} or {compute.get("device")}
        return devices.pop() if len(devices) == 1 and not devices & {"cuda", "cpu", "auto", None} else None
    classes = (run.get("items") or {}).get("numerics_classes") or []
    devices = {one.get("device") for one in classes if one.get("device")} or {(run.get("numerics") or {}).get("device")}
    return devices.pop() if len(devices) == 1 else None  # a mixed run says nothing of either device
