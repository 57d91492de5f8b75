"""Both sides of a direction out of image-text pairs: keys in order, links to images and labels, places of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from fgray.benchmarks.pairs import load_pairs
from fgray.config.schema import Direction, MineJob
from fgray.data.index import ImageIndex
from fgray.data.negatives import DIRECTIONS
from fgray.data.pairs import PairSet
from fgray.errors import DataError
from fgray.mining.candidates import Kind, Side, Sides
from fgray.mining.filters import Chain

Places = tuple[tuple[ImageIndex, Sequence[str]], ...]


def load_sets(job: MineJob) -> list[PairSet]:
    """Return a mining job's pairs, and its corpus where there is one.

    Raises:
        FgrayError: what `fgray.benchmarks.pairs.load_pairs` raises.
    """
    sets = [load_pairs(job.pairs, job.data.root, job.store_uri, job.limit)]
    return sets if job.corpus is None else [*sets, load_pairs(job.corpus, job.data.root, job.store_uri)]


@dataclass(frozen=True)
class Linked:
    """Pairs and corpus with one numbering of images and labels.

    Args:
        pairs: whose images and texts are anchors.
        corpus: whose images and texts are candidates; None: those of the pairs.
    """

    pairs: PairSet
    corpus: PairSet | None = None

    def __post_init__(self) -> None:
        """Refuse two different images under one key."""
        if self.corpus is not None:
            _refuse_clashes(self.pairs, self.corpus)

    def sides(self, direction: Direction) -> Sides:
        """Return anchors, corpus, and what their rows are linked to.

        Raises:
            DataError: there is nothing to search for or in, or no pair to compare with where the direction crosses.
        """
        sets = [self.pairs] if self.corpus is None else [self.pairs, self.corpus]
        table = pa.concat_tables(pairs.table for pairs in sets)
        names, places = _all_images(sets)
        images = pa.array(names, pa.string())
        labels = pc.unique(table["label"].drop_null())
        anchor_kind, corpus_kind = DIRECTIONS[direction]
        searched = self.pairs if self.corpus is None else self.corpus

        def side(kind: str, pairs: PairSet) -> Side:
            if kind == "image":
                keys = pairs.images
                return _side("image", keys, table, images, labels, ((pairs.index, keys),) if pairs.index.table.num_rows else ())
            return _side("text", pairs.texts, table, images, labels, ())

        for what, kind, pairs in (
            ("pairs", anchor_kind, self.pairs),
            ("pairs" if self.corpus is None else "corpus", corpus_kind, searched),
        ):
            if not (pairs.images if kind == "image" else pairs.texts):
                fix = f"mine another direction, or bring pairs with {kind}s"
                raise DataError(f"the {what} have no {kind} for {direction}", where="directions", fix=fix)
        crossing = anchor_kind != corpus_kind
        if crossing and not self.pairs.table.select(["image", "text"]).drop_null().num_rows:
            what = f"no image of the pairs has a caption, so that {direction} has no positives"
            raise DataError(what, where="directions", fix="mine image_to_image or text_to_text, or bring captioned images")
        return Sides(
            anchors=side(anchor_kind, self.pairs),
            corpus=side(corpus_kind, searched),
            images=_side("image", names, table, images, labels, places),
            texts=_side("text", sorted({text for pairs in sets for text in pairs.texts}), table, images, labels, ()),
            positives=side(corpus_kind, self.pairs) if crossing else None,
        )

    def checked_sides(self, directions: Sequence[Direction], chain: Chain) -> dict[Direction, Sides]:
        """Return the sides of each direction.

        Raises:
            DataError: what `sides` finds, or a filter lacks what it looks at.
        """
        found = {direction: self.sides(direction) for direction in directions}
        for sides in found.values():
            for _, built in chain:
                built.check(sides)
        return found

    def rows(self, direction: Direction, sides: Sides) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (anchor, positive) row numbers of every pair, sorted; positive is -1 where the direction has none."""
        if sides.positives is None:
            count = len(sides.anchors.keys)
            return np.arange(count), np.full(count, -1, np.int64)
        table = self.pairs.table.select(["image", "text"]).drop_null()
        columns = ("image", "text") if sides.anchors.kind == "image" else ("text", "image")
        numbers = [
            pc.index_in(table[column], value_set=pa.array(side.keys, pa.string())).to_numpy().astype(np.int64)
            for column, side in zip(columns, (sides.anchors, sides.positives), strict=True)
        ]
        distinct = np.unique(np.stack(numbers, axis=1), axis=0)
        return distinct[:, 0], distinct[:, 1]


def _side(kind: Kind, keys: Sequence[str], table: pa.Table, images: pa.Array, labels: pa.Array, places: Places) -> Side:
    own = pa.array(keys, pa.string())
    linked = _links(own, images, table[kind], table["image"]) if kind == "text" else _links(own, images, own, own)
    return Side(kind, keys, linked, _links(own, labels, table[kind], table["label"]), places)


def _links(rows: pa.Array, columns: pa.Array, left: pa.ChunkedArray, right: pa.ChunkedArray) -> sparse.csr_matrix:
    """Return bool [rows, columns]: which pairs (left, right) there are."""
    row, column = pc.index_in(left, value_set=rows), pc.index_in(right, value_set=columns)
    known = pc.and_(pc.is_valid(row), pc.is_valid(column))
    known = pc.and_(known, pc.and_(pc.is_valid(left), pc.is_valid(right)))
    places = (
        np.stack([row.filter(known).to_numpy(zero_copy_only=False), column.filter(known).to_numpy(zero_copy_only=False)])
        if len(left)
        else np.zeros((2, 0), np.int64)
    )
    matrix = sparse.csr_matrix((np.ones(places.shape[1], bool), (places[0], places[1])), shape=(len(rows), len(columns)))
    matrix.sum_duplicates()
    return matrix


def _all_images(sets: Sequence[PairSet]) -> tuple[list[str], Places]:
    """Return every image once, those of the pairs first, and where they lie."""
    names: list[str] = []
    places: list[tuple[ImageIndex, Sequence[str]]] = []
    for pairs in sets:
        new = sorted(set(pairs.images) - set(names))
        names += new
        if new and pairs.index.table.num_rows:
            places.append((pairs.index, new))
    return names, tuple(places)


def _refuse_clashes(pairs: PairSet, corpus: PairSet) -> None:
    shared = sorted(set(pairs.images) & set(corpus.images))
    if not shared or not pairs.index.table.num_rows or not corpus.index.table.num_rows:
        return
    one, other = (index.locate(shared)["sha256"].to_pylist() for index in (pairs.index, corpus.index))
    for key, first, second in zip(shared, one, other, strict=True):
        if first != second:
            what = f"two different images are called '{key}', one of the pairs and one of the corpus"
            raise DataError(what, fix="rename one; keys are paths below the image folder")
