"""What benchmarks that are read from a folder have in common: options, packed folders, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.benchmarks.files import read_json
from fgray.config.schema import Section
from fgray.data.cases import CaseSet
from fgray.data.index import ImageIndex, open_images
from fgray.errors import ConfigError, DataError, did_you_mean
from fgray.metrics.spec import AnyMetric
from fgray.storage import Storage, open_storage

PACKED_FILE = "benchmark.json"
Row = dict[str, Any]


@dataclass
class Upstream:
    """What a benchmark found in its official layout.

    Attributes:
        cases: what is asked.
        images: where the images lie.
        hashes: annotation file name -> sha256 of its bytes, for the files that the release's hashes are known of.
        notes: one-line remarks for the report.
    """

    cases: CaseSet
    images: ImageIndex
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class BenchmarkOptions(Section):
    """Base of a benchmark whose options are its fields; a wrong option is one clear line.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """

    info: ClassVar[BenchmarkInfo]

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise _option_error(type(self), error) from error


class FolderBenchmark(BenchmarkOptions):
    """Base of benchmarks whose data lies in a folder: upstream's layout, or packed by ``fgray import``.

    A subclass is a pydantic model: its fields are the benchmark's options. It implements `read`, `metrics` and, where
    its facts depend on the options, `facts`.
    """

    selection: ClassVar[str] = ""  # the option that picks subsets, if there is one; a packed folder may be narrowed further
    scoring: ClassVar[frozenset[str]] = frozenset()  # options that change metrics only, so a packed folder takes any value

    def read(self, root: str, cache: str) -> Upstream:
        """Read upstream's layout."""
        raise NotImplementedError

    def metrics(self, cases: CaseSet) -> list[AnyMetric]:
        """Return what is reported, in the order of the report."""
        raise NotImplementedError

    def facts(self) -> BenchmarkInfo:
        """Return the facts of the data that the options name."""
        return self.info

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        """Read cases and image index from upstream's layout or from a packed folder; see `Benchmark.load`."""
        if root is None:
            raise DataError(f"{self.info.title} needs a folder", where=f"benchmark {self.info.name}", fix="set its root or data.root")
        storage = open_storage(root)
        if storage.exists(PACKED_FILE):
            return self._load_packed(storage, cache)
        found = self.read(root, cache)
        return self._loaded(found.cases, found.images, hashes_match=self.hashes_match(found), notes=found.notes)

    def _load_packed(self, storage: Storage, cache: str) -> LoadedBenchmark:
        packed = read_packed_facts(storage)
        if packed["name"] != self.info.name:
            raise DataError(
                f"this folder holds {packed['name']}, not {self.info.name}", where=f"{storage.uri}/{PACKED_FILE}", fix="name that benchmark"
            )
        asked = self.model_dump(mode="json", include=self.model_fields_set)
        free = {self.selection, *self.scoring}
        differing = [name for name, value in asked.items() if name not in free and packed["options"].get(name) != value]
        if differing:
            raise DataError(
                f"packed with {differing[0]} = {packed['options'].get(differing[0])!r}, asked for {asked[differing[0]]!r}",
                where=f"{storage.uri}/{PACKED_FILE}",
                fix="drop the option or import again",
            )
        same = type(self)(**{**packed["options"], **asked})
        cases = CaseSet.load(storage)
        if self.selection in asked:
            wanted = list(getattr(same, self.selection))
            present = set(pc.unique(cases.table["subset"]).to_pylist())
            absent = [name for name in wanted if name not in present]
            if absent:
                raise DataError(
                    f"'{absent[0]}' is not in this packed folder", where=storage.uri, fix=f"it holds {', '.join(sorted(present))}"
                )
            kept = cases.table.filter(pc.is_in(cases.table["subset"], pa.array(wanted)))
            cases = CaseSet(kept, cases.pools, cases.prototypes, cases.regions)
        images = open_images(storage.uri, cache, keys=cases.pictures())
        return same._loaded(cases, images, hashes_match=packed["hashes_match"], notes=list(packed["notes"]))

    def _loaded(self, cases: CaseSet, images: ImageIndex, *, hashes_match: bool, notes: list[str]) -> LoadedBenchmark:
        official = hashes_match and self.counts_match(cases)
        return LoadedBenchmark(self.facts(), cases, images, self.metrics(cases), official=official, notes=notes)

    def counts_match(self, cases: CaseSet) -> bool:
        """Return whether every subset that is there has as many cases as the official release."""
        official = self.facts().official_counts
        return bool(official) and all(official.get(name) == count for name, count in subset_counts(cases).items())

    def hashes_match(self, found: Upstream) -> bool:
        """Return whether the files whose hashes are known are the official ones; a file that was not read does not count."""
        official = self.facts().official_hashes
        return all(found.hashes[name] == digest for name, digest in official.items() if name in found.hashes)


def _option_error(kind: type[BenchmarkOptions], error: ValidationError) -> ConfigError:
    """Return the first complaint as one line."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    where = f"benchmark {kind.info.name}"
    if first["type"] == "extra_forbidden":
        return ConfigError(f"unknown option '{name}'", where=where, fix=did_you_mean(name, kind.model_fields))
    return ConfigError(
        f"option '{name}': {first['msg'].removeprefix('Value error, ')}", where=where, fix=str(kind.model_fields[name].description)
    )


def read_packed_facts(storage: Storage) -> dict[str, Any]:
    """Return the content of ``benchmark.json`` of a packed folder.

    Raises:
        DataError: a field is missing, or it was packed by a newer version.
    """
    facts = read_json(storage, PACKED_FILE)
    missing = [name for name in ("name", "options", "hashes_match", "notes") if not isinstance(facts, dict) or name not in facts]
    if missing:
        raise DataError(f"'{missing[0]}' is missing", where=f"{storage.uri}/{PACKED_FILE}", fix="import the benchmark again")
    return dict(facts)


def subset_counts(cases: CaseSet) -> dict[str, int]:
    """Return ``subset/task`` -> number of cases."""
    groups = cases.table.group_by(["subset", "task"], use_threads=False).aggregate([([], "count_all")])
    return {f"{row['subset']}/{row['task']}": row["count_all"] for row in groups.to_pylist()}
