"""Refuses shapes of a job that would wait for ever, stay smaller than asked, or spill: one line each, with the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fgray.errors import ConfigError
from fgray.launch.clusters.file import ClusterFile, NodeType
from fgray.launch.plan.devices import own_memory_gib
from fgray.launch.plan.place import PackedNode, Place, Pool, is_here, pack, packed

IN_FLIGHT = 2  # units that a worker has in its hands or before it; see ActorPoolStrategy in the engine
ROOM = 0.92  # of a memory that may be planned with; the rest is lost to fragments
_STORE_SHARE = 0.3  # of a node's memory that Ray gives its object store


class Refusal(NamedTuple):
    """What is wrong with a shape, which setting says so, and how to mend it."""

    what: str
    setting: str
    fix: str


def refuse(refusals: Sequence[Refusal], path: str) -> None:
    """Raise the first refusal with the others as notes; none: return.

    Args:
        refusals: what was found.
        path: the configuration.

    Raises:
        ConfigError: there is one.
    """
    errors = [ConfigError(one.what, where=f"{path}: {one.setting}", fix=one.fix) for one in refusals]
    if errors:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]


def check_pools(pools: Sequence[Pool], place: Place) -> list[Refusal]:
    """Return what keeps pools from ever being whole on a cluster; on this machine Ray is started as large as it takes.

    Ray waits without a word for a worker that no node can take.
    """
    file = place.file
    if file is None:
        return []
    found = []
    for pool in pools:
        nodes = [node for node in file.node_types if node.head or node.max_workers > 0 or node.min_workers > 0]
        for name, need, setting in (("CPU", pool.cpus, "compute.threads"), ("GPU", pool.gpus, "compute.device")):
            most = max((node.resources.get(name, 0.0) for node in nodes), default=0.0)
            if need > most:
                what = f"one {pool.name} worker wants {need:g} {name}s, no node of {place.name} has more than {most:g}"
                fix = "lower compute.threads" if name == "CPU" else "say cpu, or add a node type with a GPU"
                found.append(Refusal(what, setting, fix))
    if found:
        return found
    for name in ("CPU", "GPU"):
        need = sum(pool.workers * (pool.cpus if name == "CPU" else pool.gpus) for pool in pools)
        if need > (most := file.most(name)):
            largest = max(pools, key=lambda pool: pool.workers * (pool.cpus if name == "CPU" else pool.gpus))
            wanted = ", ".join(f"{pool.workers} {pool.name}" for pool in pools if (pool.cpus if name == "CPU" else pool.gpus))
            what = f"the workers ({wanted}) want {need:g} {name}s, {place.name} can have {most:g}: the rest would be waited for without end"
            found.append(Refusal(what, largest.setting, f"lower {largest.setting}, or raise max_workers in {file.path}"))
    if found:
        return found
    _, placed = pack(pools, file)
    for pool in pools:
        if placed[pool.name] < pool.workers:
            what = f"{pool.workers} {pool.name} workers of {_each(pool)} do not fit the nodes of {place.name}: {placed[pool.name]} do"
            found.append(Refusal(what, pool.setting, f"set it to {max(1, placed[pool.name])}, or raise max_workers in {file.path}"))
    return found


def check_units(pool: Pool, given: bool, units: int, unit_rows: int) -> list[Refusal]:
    """Return whether workers that were asked for have nothing to do.

    Args:
        pool: the workers that embed.
        given: their number stands in the configuration; "auto" is no wish.
        units: of the whole work, stored ones included.
        unit_rows: items of a unit.
    """
    if not given or not units or pool.workers <= units:
        return []
    smaller = max(1, unit_rows * units // pool.workers)
    what = f"{pool.workers} {pool.name} workers for {units} units: {pool.workers - units} would start and do nothing"
    return [Refusal(what, pool.setting, f"set it to {units} or less, or compute.unit_rows to {smaller}")]


def check_object_store(pools: Sequence[Pool], unit_bytes: float, place: Place, memory: float | None) -> list[Refusal]:
    """Return whether the units in flight are larger than a node's object store: Ray would write them to disk and read them again.

    Args:
        pools: all workers.
        unit_bytes: decoded size of a unit.
        place: where they run.
        memory: bytes of this machine; used where there is no cluster.
    """
    each = IN_FLIGHT * unit_bytes
    if place.file is None:
        need, room, where = sum(pool.workers for pool in pools) * each, (memory or 0.0) * _STORE_SHARE, place.name
        found = [(need, room, where)] if memory is not None else []
    else:
        file = place.file
        found = [(sum(node.workers.values()) * each, store_bytes(node.kind, file), _of(node)) for node in packed(pools, file)]
    for need, room, where in sorted(found, reverse=True):
        if room and need > room:
            what = (
                f"{need / 2**30:.1f} GiB of decoded units would be on their way, the object store of {where} holds {room / 2**30:.1f} GiB"
            )
            return [Refusal(what, "compute.unit_rows", "lower it, or compute.decode_workers; else units spill to disk")]
    return []


def check_nodes(
    pools: Sequence[Pool],
    needs: Mapping[str, float],
    place: Place,
    fix: str = "lower it, or compute.decode_workers",
    setting: str = "compute.unit_rows",
) -> list[Refusal]:
    """Return whether the processes of a cluster's node need more memory than it has: the system would kill some of them.

    Args:
        pools: all workers.
        needs: pool -> GiB of one worker's process.
        place: where they run.
        fix: what makes it smaller.
        setting: the configuration key.
    """
    file = place.file
    if file is None:
        return []
    nodes = packed(pools, file)
    found = [(node.workers, memory_gib(node.kind, file), _of(node)) for node in nodes]
    if is_here(file):
        whole = {name: sum(node.workers.get(name, 0) for node in nodes) for name in needs}
        found = [(whole, own_memory_gib(), "this machine")]
    for workers, room, where in found:
        need = sum(count * needs.get(name, 0.0) for name, count in workers.items())
        if room and need > ROOM * room:
            who = ", ".join(f"{count} {name}" for name, count in workers.items() if count)
            return [Refusal(f"the workers on {where} ({who}) need about {need:.1f} GiB, it has {room:.1f} for them", setting, fix)]
    return []


def store_bytes(node: NodeType, file: ClusterFile) -> float:
    """Return the size of a node's object store; 0 where the cluster file does not say."""
    stated = node.resources.get("object_store_memory") or _started_with(file)
    memory = node.resources.get("memory", 0.0)
    if file.provider != "kuberay":  # elsewhere, what the file states is what the object store leaves
        memory /= 1 - _STORE_SHARE
    return stated or memory * _STORE_SHARE


def memory_gib(node: NodeType, file: ClusterFile) -> float | None:
    """Return the memory that a node has for processes; None where the cluster file does not say."""
    memory = node.resources.get("memory")
    if memory is None:
        return None
    return (memory - (store_bytes(node, file) if file.provider == "kuberay" else 0.0)) / 2**30  # a pod's limit holds both


def _of(node: PackedNode) -> str:
    return f"a '{node.kind.name}' node"


def check_training(workers: Pool, place: Place, gpus_here: int) -> list[Refusal]:
    """Return whether training workers have no GPU of their own."""
    gpus = gpus_here if place.file is None else int(place.file.most("GPU"))
    if workers.gpus and workers.workers > gpus:
        what = f"{workers.workers} training workers, {place.name} {'has' if place.file is None else 'can have'} {gpus} GPUs"
        return [Refusal(what, workers.setting, f"set it to {max(1, gpus)}; each worker computes on a GPU of its own")]
    return check_pools([workers], place)


def _started_with(file: ClusterFile) -> float:
    """Return the object store that the start command of the workers asks for, in bytes; 0: it asks for none."""
    commands = file.content.get("worker_start_ray_commands") or []
    found = re.search(r"--object-store-memory[= ](\d+)", " ".join(map(str, commands)))
    return float(found.group(1)) if found else 0.0


def _each(pool: Pool) -> str:
    gpus = f" and {pool.gpus:g} GPU" if pool.gpus else ""
    return f"{pool.cpus:g} CPU{'s' if pool.cpus != 1 else ''}{gpus}"
