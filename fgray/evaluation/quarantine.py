"""Items that could not be computed: listed, counted, and tolerated up to the stated share."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from fgray.benchmarks.base import LoadedBenchmark
from fgray.embedding import Embedded, Work, image_requests, region_requests, text_requests
from fgray.errors import RunError
from fgray.runs import QUARANTINE_SCHEMA


def count_failed(embedded: Embedded) -> int:
    """Return the number of distinct items that carry an error."""
    return sum(error is not None for results, _ in embedded.kinds() for error in results.errors)


def list_quarantine(benchmarks: Mapping[str, LoadedBenchmark], fingerprint: str, max_pixels: int, embedded: Embedded) -> pa.Table:
    """List every image key, text and region id whose item has an error, once per benchmark; a text lies in no shard."""
    errors = {id_: results.errors[row] for results, rows in embedded.kinds() for id_, row in rows.items() if results.errors[row]}
    rows = []
    for name, loaded in benchmarks.items() if errors else ():
        images = image_requests(loaded.images, loaded.cases.references("image"), fingerprint, max_pixels)
        texts = text_requests(loaded.cases.references("text"), fingerprint)
        found = [*zip(*(images[c].to_pylist() for c in ("item_id", "key", "shard")), strict=True)]
        found += [(id_, text, "") for id_, text in zip(texts["item_id"].to_pylist(), texts["text"].to_pylist(), strict=True)]
        named = loaded.cases.named_regions()
        regions = region_requests(loaded.images, named, fingerprint, max_pixels)
        found += [*zip(regions["item_id"].to_pylist(), named["region_id"].to_pylist(), regions["shard"].to_pylist(), strict=True)]
        for id_, key, shard in found:
            if id_ in errors:
                stage, _, reason = (errors[id_] or "").partition(": ")
                rows.append({"benchmark": name, "key": key, "shard": shard, "stage": stage, "error": reason})
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["benchmark"], row["key"])), schema=QUARANTINE_SCHEMA)


def account(work: Work, embedded: Embedded, tolerated: float, where: str) -> None:
    """Check that every requested item was answered and that few enough answers are errors.

    Raises:
        RunError: items are unaccounted for, or more than the share `tolerated` cannot be computed.
    """
    answered = sum(len(results.errors) for results, _ in embedded.kinds())
    if answered != work.requested:
        raise RunError(
            f"{work.requested - answered} items are neither scored nor quarantined", where=where, fix="run the same command again"
        )
    failed = count_failed(embedded)
    if failed > tolerated * work.requested:
        share = f"{failed} of {work.requested} items cannot be computed, more than data.max_corrupt_fraction = {tolerated:g} allows"
        raise RunError(share, where=f"{where}/quarantine.parquet", fix="mend or remove the files listed there, or raise the fraction")
