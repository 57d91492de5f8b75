"""Rates that earlier runs measured, by device, architecture and stage, for the plans to come.

The file lies in the home folder, not beside a store: a rate belongs to a device, a plan is asked for before there is a store, and a shared
store may not be ours to write. A run on a cluster brings its rates home in its run.json.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgray.errors import FgrayError
from fgray.storage import open_storage

VARIABLE = "FGRAY_CALIBRATION"
_FILE = "~/.fgray/calibration.json"
_FORMAT = 1
_RUNS = 8  # newest runs that count; an older one says little of today's libraries and machines
_log = logging.getLogger(__name__)


def rate_key(device: str, architecture: str, dtype: str, threads: int) -> str:
    """Return the key of the rates of a model on a device."""
    return f"{device} | {architecture} | {dtype} | {threads} thread{'s' if threads != 1 else ''}"


class Calibration:
    """The calibration file.

    Args:
        path: of the file; default: what FGRAY_CALIBRATION says, else ~/.fgray/calibration.json. It need not exist.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = Path(path or os.environ.get(VARIABLE) or _FILE).expanduser()
        self._rates: dict[str, dict[str, dict[str, list[list[Any]]]]] = {}
        self._starts: dict[str, list[list[Any]]] = {}
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["format"] == _FORMAT:
                self._rates, self._starts = content["rates"], content["startup_seconds"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:  # it is a help, not a need
            _log.warning("the calibration file is not used (%s) [%s]", error, self.path)

    def per_item(self, key: str, kind: str, stage: str, weight: float = 1.0) -> tuple[float, int] | None:
        """Return the seconds of one worker for an item, and how many runs measured it.

        Args:
            key: see `rate_key`.
            kind: request kind; "pair" of a training.
            stage: its stage.
            weight: what the rate is proportional to, of the item that is asked about; see `add`.
        """
        rows = self._rates.get(key, {}).get(kind, {}).get(stage, [])
        weighted = sum(items * each for _, items, _, each in rows)
        return (weight * sum(seconds for _, _, seconds, _ in rows) / weighted, len(rows)) if weighted > 0 else None

    def startup(self, key: str) -> tuple[float, int] | None:
        """Return the seconds until the first unit was done, and how many runs measured it."""
        rows = self._starts.get(key, [])
        return (statistics.median(seconds for _, seconds in rows), len(rows)) if rows else None

    def add(self, run: str, key: str, kind: str, stage: str, items: float, seconds: float, weight: float = 1.0) -> None:
        """Take over what a run measured; the same run again replaces it.

        Args:
            run: identifies the run.
            key: see `rate_key`.
            kind: request kind.
            stage: its stage.
            items: computed.
            seconds: of workers, spent on them.
            weight: what the rate is proportional to (the decode formula's value, the operations of a pair), of one item.
        """
        rows = self._rates.setdefault(key, {}).setdefault(kind, {}).setdefault(stage, [])
        rows[:] = [*(row for row in rows if row[0] != run), [run, items, round(seconds, 6), weight]][-_RUNS:]

    def add_startup(self, run: str, key: str, seconds: float) -> None:
        """Take over how long a run's workers took to start."""
        rows = self._starts.setdefault(key, [])
        rows[:] = [*(row for row in rows if row[0] != run), [run, round(seconds, 3)]][-_RUNS:]

    def save(self) -> None:
        """Write the file; where it cannot be written, the next plan is calibrated as this one was."""
        content = {"format": _FORMAT, "rates": self._rates, "startup_seconds": self._starts}
        try:
            storage = open_storage(str(self.path.parent))
            storage.write_bytes(self.path.name, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
        except (FgrayError, OSError) as error:
            _log.warning("the measured rates were not kept for the next plan (%s) [%s]", error, self.path)


def run_id(uri: str, run: Mapping[str, Any]) -> str:
    """Return a short name of a run that two looks at its folder agree on."""
    timing = json.dumps(run.get("timing") or {}, sort_keys=True)
    return hashlib.sha256(f"{uri} {run.get('fingerprint')} {timing}".encode()).hexdigest()[:16]
