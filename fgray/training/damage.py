"""The damaged images of a training run: united over its workers, kept across restarts, counted against the limit, listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from fgray.errors import DataError
from fgray.runs import QUARANTINE_SCHEMA, RunFolder


@dataclass(frozen=True, order=True)
class DamagedImage:
    """An image that cannot be decoded.

    Attributes:
        source: number of its source, from 0.
        name: the source's name.
        key: of the image.
        shard: path of the file that holds it, relative to the root of the images.
        error: why it cannot be decoded.
    """

    source: int
    name: str
    key: str
    shard: str
    error: str


class Damage:
    """The damaged images that the steps of a run chose, each once; equal in all workers.

    Args:
        images: of all sources.
        tolerated: share of them that may be damaged.
    """

    def __init__(self, images: int, tolerated: float) -> None:
        self.images, self.tolerated = images, tolerated
        self._found: dict[tuple[int, str], DamagedImage] = {}

    def __len__(self) -> int:
        return len(self._found)

    def restore(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Take over what `facts` gave."""
        self._add(DamagedImage(**fact) for fact in facts)

    def facts(self) -> list[dict[str, Any]]:
        """Return plain values for a checkpoint, sorted."""
        return [asdict(image) for image in sorted(self._found.values())]

    def unite(self, met: Sequence[DamagedImage], world: int) -> None:
        """Add what this worker met and what all the others did; all of them must call it."""
        news = [image for image in met if (image.source, image.key) not in self._found]
        if world == 1:
            self._add(news)
            return
        import torch.distributed as dist

        parts: list[list[DamagedImage] | None] = [None] * world
        dist.all_gather_object(parts, news)
        for part in parts:
            self._add(part or [])

    def check(self, where: str) -> None:
        """Compare the count with the limit.

        Args:
            where: the run folder, for the error.

        Raises:
            DataError: more images are damaged than may be.
        """
        if len(self) > self.tolerated * self.images:
            limit = f"more than data.max_corrupt_fraction = {self.tolerated:g} allows"
            what = f"{len(self)} of {self.images} training images cannot be decoded, {limit}"
            fix = "restore or remove the files listed there, or raise the fraction"
            raise DataError(what, where=f"{where}/{RunFolder.QUARANTINE}", fix=fix)

    def _add(self, images: Iterable[DamagedImage]) -> None:
        for image in images:
            self._found.setdefault((image.source, image.key), image)


def quarantine_table(facts: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return the rows of quarantine.parquet for what `Damage.facts` gave; ``benchmark`` is the source's name."""
    rows = [
        {"benchmark": fact["name"], "key": fact["key"], "shard": fact["shard"], "stage": "decode", "error": fact["error"]} for fact in facts
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["benchmark"], row["key"])), schema=QUARANTINE_SCHEMA)
