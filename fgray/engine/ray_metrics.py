"""Counts what was committed for Prometheus, through Ray's own exporters; a dashboard reads the sums over all jobs of a cluster."""

from __future__ import annotations

from ray.util.metrics import Counter

from fgray.engine.stages import Receipt


class Counters:
    """What a driver counts while receipts come in. Ray's exporters put ``ray_`` before each name."""

    def __init__(self) -> None:
        self.units = Counter("fgray_units_committed_total", "Units of work whose results are stored")
        self.items = Counter("fgray_items_committed_total", "Items whose results are stored, failed ones included")
        self.failed = Counter("fgray_items_failed_total", "Items that could not be computed")
        self.splits = Counter("fgray_unit_splits_total", "Units that were given up and run again in halves")
        self.lost = Counter("fgray_attempts_lost_total", "Attempts that died with their worker or node and were made again")
        self.seconds = Counter("fgray_stage_seconds", "Seconds that workers spent", tag_keys=("stage",))

    def count(self, receipt: Receipt, items: int) -> None:
        """Count one receipt of a unit of so many items."""
        if receipt.lost:
            self.lost.inc(receipt.lost)
        if receipt.died is None:
            self.units.inc()
            self.items.inc(items)
            if receipt.errors:
                self.failed.inc(receipt.errors)
        elif items > 1:
            self.splits.inc()
        else:
            self.failed.inc()
        for stage, seconds in receipt.seconds.items():
            if seconds > 0:
                self.seconds.inc(seconds, {"stage": stage})
