"""What a run costs on a cluster, by the prices that its file states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fgray.launch.clusters.file import ClusterFile
from fgray.launch.plan.place import Pool, pack

_IDLE_MINUTES = 5.0  # Ray's own default


@dataclass(frozen=True)
class Cost:
    """Money for one run.

    Attributes:
        nodes: node type -> nodes besides the head.
        hourly: while all of them are up, head included.
        total: of the run: start-up, work, and the idle time until the workers go; None where the time is not known.
        on_demand: the same if no node were a spot one.
        currency: of the prices.
        missing: node types without a price; then nothing else is known.
    """

    nodes: dict[str, int]
    hourly: float | None
    total: float | None
    on_demand: float | None
    currency: str
    missing: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the cost in one line."""
        nodes = ", ".join(f"{count} {name}" for name, count in self.nodes.items() if count) or "no worker"
        if self.missing:
            return f"no price for {', '.join(self.missing)}: state it under provider.fgray.prices (head and {nodes})"
        text = f"{self.hourly:.2f} {self.currency} an hour (head and {nodes})"
        if self.total is not None:
            text = f"about {self.total:.2f} {self.currency}: {text}"
            if self.on_demand is not None and self.total and self.on_demand / self.total > 1.02:
                text += f"; {self.on_demand:.2f} if no spot node is to be had"
        return text + "; the head goes on costing until `fgray cluster down`"


def cost_of(pools: Sequence[Pool], file: ClusterFile, seconds: float | None) -> Cost:
    """Return what a run costs.

    Args:
        pools: its workers; all nodes that they need are taken as up from the start to the end.
        file: the cluster, with prices.
        seconds: of the run, start-up included; None: not known.
    """
    nodes, _ = pack(pools, file)
    used = [(file.head, 1), *((node, nodes[node.name]) for node in file.node_types if nodes.get(node.name))]
    missing = tuple(node.name for node, _ in used if node.price is None)
    if missing:
        return Cost(nodes, None, None, None, file.options.currency, missing)
    idle = 60 * float(file.content.get("idle_timeout_minutes", _IDLE_MINUTES))
    prices = file.options.prices
    hourly = total = demand = 0.0
    for node, count in used:
        price = node.price or 0.0
        entry = prices.get(node.machine or node.name) or prices.get(node.name)
        hours = ((seconds or 0.0) + (0.0 if node.head else idle)) / 3600
        hourly += count * price
        total += count * price * hours
        demand += count * (entry.on_demand if entry is not None else price) * hours
    return Cost(nodes, hourly, None if seconds is None else total, None if seconds is None else demand, file.options.currency)
