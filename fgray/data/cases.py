"""The case set: what a benchmark asks, as one table that the whole system reads.

A case is one query with its candidates and the right ones among them. Queries and candidates are references:
an image key of the image index, a text as it stands, the name of a prototype (the mean of several texts), or the id of a
region of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgray.data.regions import REGION_SCHEMA, check_regions
from fgray.errors import DataError
from fgray.storage import Storage

Kind = Literal["image", "text", "prototype", "region"]

CASE_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),  # unique in the set
        pa.field("subset", pa.string(), nullable=False),  # e.g. "existence", "swap_obj"
        pa.field("task", pa.string(), nullable=False),  # e.g. "i2t", "t2i", "classify"
        pa.field("cluster_id", pa.string(), nullable=False),  # cases that share an image share a cluster
        pa.field("category", pa.string()),  # class of the query, for per-class averages
        pa.field("query_kind", pa.string(), nullable=False),  # image | text | region
        pa.field("query", pa.string(), nullable=False),  # image key, the text itself, or a region id
        pa.field("candidate_kind", pa.string(), nullable=False),  # image | text | prototype | region
        pa.field("candidates", pa.list_(pa.string())),  # in the harness's order; null where a pool is named
        pa.field("pool", pa.string()),  # name of a shared candidate list
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # positions of the right candidates
    ]
)


@dataclass
class CaseSet:
    """Cases with the candidate pools and prototypes that they name.

    Attributes:
        table: rows of ``CASE_SCHEMA``.
        pools: pool name -> its candidates' references, in order.
        prototypes: prototype name -> the texts whose normalised embeddings are averaged and normalised again.
        regions: rows of ``REGION_SCHEMA`` that queries and candidates of kind region name by their id.
    """

    table: pa.Table
    pools: Mapping[str, list[str]] = field(default_factory=dict)
    prototypes: Mapping[str, list[str]] = field(default_factory=dict)
    regions: pa.Table | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], **parts: Any) -> CaseSet:
        """Build a checked case set from dictionaries with the fields of ``CASE_SCHEMA`` (missing ones are null).

        Raises:
            DataError: what `check` finds.
        """
        cases = cls(pa.Table.from_pylist(list(rows), schema=CASE_SCHEMA), **parts)
        cases.check()
        return cases

    def check(self) -> None:
        """Refuse an inconsistent set.

        Raises:
            DataError: no cases, duplicate case ids, a label outside its candidates, an unknown pool, prototype or region,
                or what `check_regions` finds.
        """
        if self.table.num_rows == 0:
            raise DataError("the case set is empty", fix="check the benchmark's folder and its subset names")
        ids = self.table["case_id"]
        if pc.count_distinct(ids).as_py() != len(ids):
            counts = ids.value_counts()
            repeated = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))[0]["values"].as_py()
            raise DataError(f"duplicate case id '{repeated}'", fix="case ids must be unique within a benchmark")
        for row in self.table.select(["case_id", "candidate_kind", "candidates", "pool", "labels"]).to_pylist():
            candidates = row["candidates"] if row["pool"] is None else self.pools.get(row["pool"])
            if candidates is None:
                raise DataError(
                    "a case names neither candidates nor a known pool", where=row["case_id"], fix="give it candidates or a pool"
                )
            if not row["labels"]:
                raise DataError("a case has no right candidate", where=row["case_id"], fix="give at least one label")
            if any(not 0 <= label < len(candidates) for label in row["labels"]):
                raise DataError(
                    f"label out of range: {row['labels']} for {len(candidates)} candidates", where=row["case_id"], fix="labels count from 0"
                )
            if row["candidate_kind"] == "prototype":
                unknown = [name for name in candidates if name not in self.prototypes]
                if unknown:
                    raise DataError(f"unknown prototype '{unknown[0]}'", where=row["case_id"], fix="define its texts")
        if self.regions is not None:
            check_regions(self.regions)
        known = set() if self.regions is None else set(self.regions["region_id"].to_pylist())
        for reference in self.references("region"):
            if reference not in known:
                raise DataError(f"unknown region '{reference}'", fix="give its row in the set's regions")

    def references(self, kind: Kind) -> list[str]:
        """Return the distinct references of one kind, in order of first use; texts include the prototypes' texts."""
        found: dict[str, None] = {}
        table = self.table
        queries = table.filter(pc.equal(table["query_kind"], kind))["query"]
        found.update(dict.fromkeys(queries.to_pylist()))
        of_kind = table.filter(pc.equal(table["candidate_kind"], kind))
        found.update(dict.fromkeys(pc.list_flatten(of_kind["candidates"]).to_pylist()))
        for pool in pc.unique(of_kind["pool"]).to_pylist():
            if pool is not None:
                found.update(dict.fromkeys(self.pools[pool]))
        if kind == "text":
            for texts in self.prototypes.values():
                found.update(dict.fromkeys(texts))
        return list(found)

    def pictures(self) -> list[str]:
        """Return the keys of all images that the cases need: those they name, then those that their regions lie in."""
        found = dict.fromkeys(self.references("image"))
        if self.regions is not None:
            found.update(dict.fromkeys(self.regions["key"].to_pylist()))
        return list(found)

    def named_regions(self) -> pa.Table:
        """Return the rows of ``REGION_SCHEMA`` of the regions that cases name, in order of first use."""
        if self.regions is None:
            return REGION_SCHEMA.empty_table()
        named = pa.array(self.references("region"), pa.string())
        return self.regions.take(pc.index_in(named, value_set=self.regions["region_id"].combine_chunks()))

    def limited(self, count: int) -> CaseSet:
        """Return the first `count` cases of every (subset, task), a deterministic smoke subset."""
        seen: dict[tuple[str, str], int] = {}
        keep = []
        for subset, task in zip(self.table["subset"].to_pylist(), self.table["task"].to_pylist(), strict=True):
            seen[subset, task] = seen.get((subset, task), 0) + 1
            keep.append(seen[subset, task] <= count)
        cases = CaseSet(self.table.filter(pa.array(keep)), self.pools, self.prototypes, self.regions)
        if self.regions is not None:
            named = pa.array(cases.references("region"), pa.string())
            cases.regions = self.regions.filter(pc.is_in(self.regions["region_id"], named))
        return cases

    def save(self, storage: Storage, folder: str = "") -> None:
        """Write ``cases.parquet``, and ``pools.parquet``, ``prototypes.parquet`` and ``regions.parquet`` where there are any."""
        prefix = folder + "/" if folder else ""
        for name, groups in (("pools", self.pools), ("prototypes", self.prototypes)):
            if groups:
                table = pa.table({"name": list(groups), "members": list(groups.values())})
                storage.write_bytes(f"{prefix}{name}.parquet", _to_parquet(table))
        if self.regions is not None:
            storage.write_bytes(f"{prefix}regions.parquet", _to_parquet(self.regions))
        storage.write_bytes(f"{prefix}cases.parquet", _to_parquet(self.table))  # last: its presence says the set is whole

    @classmethod
    def load(cls, storage: Storage, folder: str = "") -> CaseSet:
        """Read what `save` wrote and check it.

        Raises:
            DataError: a column is missing or has another type, or what `check` finds.
            NotFound: there is no case set in that folder.
        """
        prefix = folder + "/" if folder else ""
        table = _read_table(storage, f"{prefix}cases.parquet", CASE_SCHEMA)
        groups: dict[str, dict[str, list[str]]] = {"pools": {}, "prototypes": {}}
        for name, members in groups.items():
            if storage.exists(f"{prefix}{name}.parquet"):
                stored = _from_parquet(storage, f"{prefix}{name}.parquet")
                members.update(zip(stored["name"].to_pylist(), stored["members"].to_pylist(), strict=True))
        path = f"{prefix}regions.parquet"
        regions = _read_table(storage, path, REGION_SCHEMA) if storage.exists(path) else None
        cases = cls(table, regions=regions, **groups)
        cases.check()
        return cases


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _read_table(storage: Storage, path: str, schema: pa.Schema) -> pa.Table:
    table = _from_parquet(storage, path)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(f"column '{missing[0]}' is missing", where=f"{storage.uri}/{path}", fix="write it with fgray import")
    return table.select(schema.names).cast(schema)


def _from_parquet(storage: Storage, path: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(path)))
    except pa.ArrowInvalid as error:
        raise DataError(f"not a readable Parquet file ({error})", where=f"{storage.uri}/{path}", fix="write it again") from error
