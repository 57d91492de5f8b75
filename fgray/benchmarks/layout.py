"""What benchmarks that are read from a folder have in common: options, packed folders, images, clusters, counts."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from fgray.benchmarks.base import BenchmarkInfo, LoadedBenchmark
from fgray.config.schema import Section
from fgray.data.cases import CaseSet
from fgray.data.index import ImageIndex, image_key, open_images
from fgray.errors import DataError, NotFound
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


class FolderBenchmark(Section):
    """Base of benchmarks whose data lies in a folder: upstream's layout, or packed by ``fgray import``.

    A subclass is a pydantic model: its fields are the benchmark's options. It implements `read`, `metrics` and, where
    its facts depend on the options, `facts`.
    """

    info: ClassVar[BenchmarkInfo]
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
        found.cases.check()
        return self._loaded(found.cases, found.images, hashes_match=self._hashes_match(found), notes=found.notes)

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
                raise DataError(f"'{absent[0]}' is not in this packed folder", where=storage.uri, fix=f"it holds {', '.join(sorted(present))}")
            cases = CaseSet(cases.table.filter(pc.is_in(cases.table["subset"], pa.array(wanted))), cases.pools, cases.prototypes)
        images = open_images(storage.uri, cache, keys=cases.references("image"))
        return same._loaded(cases, images, hashes_match=packed["hashes_match"], notes=list(packed["notes"]))

    def _loaded(self, cases: CaseSet, images: ImageIndex, *, hashes_match: bool, notes: list[str]) -> LoadedBenchmark:
        facts = self.facts()
        counts = subset_counts(cases)
        expected = {name: facts.official_counts.get(name) for name in counts}
        official = bool(facts.official_counts) and hashes_match and counts == expected
        return LoadedBenchmark(facts, cases, images, self.metrics(cases), official=official, notes=notes)

    def _hashes_match(self, found: Upstream) -> bool:
        known = self.facts().official_hashes
        return all(found.hashes.get(name) == known[name] for name in known if name in found.hashes)


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


def read_bytes(storage: Storage, path: str, looked_for: str) -> bytes:
    """Return a file of the official layout.

    Raises:
        DataError: it is not there; the message says what was looked for.
    """
    try:
        return storage.read_bytes(path)
    except NotFound as error:
        raise DataError(f"{looked_for} not found", where=f"{storage.uri}/{path}", fix="point root at the folder that holds it") from error


def parse_json(data: bytes, where: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is not JSON, or an object repeats a key (json would keep the last one silently).
    """
    try:
        return json.loads(data, object_pairs_hook=lambda pairs: _unique_keys(pairs, where))
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=where, fix="download the file again") from error


def _unique_keys(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise DataError(f"duplicate key '{repeated}'", where=where, fix="keep one of the two entries")
    return found


def read_json(storage: Storage, path: str, looked_for: str = "file") -> Any:
    """Read a JSON file; the errors are those of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(storage, path, looked_for), f"{storage.uri}/{path}")


def find_file(storage: Storage, paths: Sequence[str], looked_for: str, fix: str) -> str:
    """Return the first of `paths` that exists.

    Raises:
        DataError: none does; the message lists them.
    """
    for path in paths:
        if storage.exists(path):
            return path
    raise DataError(f"{looked_for} not found, looked for {', '.join(paths)}", where=storage.uri, fix=fix)


def resolve(storage: Storage, location: str) -> Storage:
    """Return the folder that an option names: a URI or absolute path, or else relative to the benchmark's root."""
    if "://" in location:
        return open_storage(location)
    scheme, mark, base = storage.uri.rpartition("://")
    return open_storage(location if location.startswith("/") else scheme + mark + posixpath.normpath(posixpath.join(base, location)))


def find_images(storage: Storage, option: str | None, folders: Sequence[str], first: str) -> str:
    """Return the folder in which the images lie.

    Args:
        storage: the benchmark's root.
        option: the folder that the user names, or None to try `folders` under the root.
        folders: usual names, in order of preference; "" is the root itself.
        first: path of one image under that folder.

    Raises:
        DataError: the image is in none of them.
    """
    candidates = [resolve(storage, option)] if option is not None else [storage.child(name) if name else storage for name in folders]
    for candidate in candidates:
        if candidate.exists(first):
            return candidate.uri
    tried = option if option is not None else ", ".join(name or "the folder itself" for name in folders)
    raise DataError(f"image {first} not found, looked in {tried}", where=storage.uri, fix="put the images there or set images: FOLDER")


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of a file's bytes as hex."""
    return hashlib.sha256(data).hexdigest()


def join_path(folder: str, path: str, where: str) -> str:
    """Return ``folder/path`` normalised; `path` comes from an annotation file.

    Raises:
        DataError: it leads out of the benchmark's root.
    """
    joined = posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))
    if joined.startswith(("..", "/")) or joined == ".":
        raise DataError(f"image path '{path}' leads out of the benchmark's folder", where=where, fix="correct the annotation file")
    return joined


def open_case_images(root: str, cache: str, files: Iterable[str], fix: str) -> ImageIndex:
    """Open the images that annotation files name and make sure that every one is there.

    Args:
        root: folder or prefix that the paths are relative to.
        cache: where the index of a plain folder is kept.
        files: image paths relative to `root`, with extension; repeated ones are fine.
        fix: what the user does about a missing image.

    Raises:
        DataError: an image is missing (the message names the first and counts the rest), or two files share a key.
    """
    by_key: dict[str, str] = {}
    for path in files:
        key = image_key(path)
        other = by_key.setdefault(key, path)
        if other != path:
            raise DataError(f"images '{other}' and '{path}' have the same key", where=root, fix="give them different stems")
    index = open_images(root, cache, keys=list(by_key))
    known = set(index.keys.to_pylist())
    missing = [path for key, path in by_key.items() if key not in known]
    if missing:
        raise DataError(f"{len(missing)} of {len(by_key)} images are missing, the first is {missing[0]}", where=root, fix=fix)
    return index


def connected(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Join names that stand in a common group, directly or through others.

    Returns:
        name -> name of its component: the first name of it that was met.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        top = name
        while parent[top] != top:
            top = parent[top]
        while parent[name] != top:  # shorten the path for the next look-up
            parent[name], name = top, parent[name]
        return top

    order: dict[str, int] = {}
    for group in groups:
        for name in group:
            parent.setdefault(name, name)
            order.setdefault(name, len(order))
        for name in group[1:]:
            first, second = sorted((find(group[0]), find(name)), key=order.__getitem__)
            parent[second] = first
    return {name: find(name) for name in parent}
