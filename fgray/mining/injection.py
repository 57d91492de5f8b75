"""Known false negatives under new keys, their links hidden: what the audit puts into the corpus of a direction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from fgray.config.schema import Dtype
from fgray.data.index import ImageIndex
from fgray.errors import ConfigError
from fgray.mining.candidates import Side, Sides
from fgray.mining.copies import TRANSFORMS, copy_key, make_copies
from fgray.mining.resources import Resources
from fgray.mining.sampling import entries, hash_of, keys_of
from fgray.mining.vectors import to_fp32, to_stored

EXACT, PARAPHRASE, RECASED = "exact", "paraphrase", "recased"
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Injected:
    """A corpus with m known false negatives in it; each belongs to one of the sampled (anchor, positive) rows.

    Attributes:
        hidden: the sides with the extended corpus, links of the injected rows emptied.
        visible: the same with the links that the injected rows truly have.
        row: row of the extended corpus, int64 [m].
        owner: position in the sample of the row whose false negative it is, int64 [m].
        transform: what was done to the anchor's image or caption, [m].
        names: new keys, [m]: those of the corpus' rows for images; for texts, whose key is the text itself, names in reports.
        vectors: embeddings as the search stores them, fp32 [m, D]; NaN where one could not be embedded.
    """

    hidden: Sides
    visible: Sides
    row: Rows
    owner: Rows
    transform: tuple[str, ...]
    names: tuple[str, ...]
    vectors: npt.NDArray[np.float32]


def inject(sides: Sides, anchor: Rows, positive: Rows, seed: int, resources: Resources, dtype: Dtype) -> Injected:
    """Make the false negatives of the sampled rows and put them into the corpus.

    Where the corpus holds images, each sampled row brings five copies of its image (of the anchor itself, or of the
    positive): the same bytes, and one of every `fgray.mining.copies.TRANSFORMS`. Where it holds texts, two: the positive
    (or the anchor) in other letter case and punctuation, and a paraphrase, another caption that the pairs give for the
    anchor's image. A paraphrase that stands in the corpus keeps its row there, because a text is its own key; it loses its links on
    every side, and so does not tell filters what it is.

    Args:
        sides: of the direction.
        anchor: the sampled rows' anchors, [n]; no two share an image (see `fgray.mining.sampling`).
        positive: their positives, [n]; -1 where there is none.
        seed: of crops, qualities, sizes, and of the choice of captions.
        resources: embed what was made, and say where the store is.
        dtype: storage type of the search.

    Raises:
        ConfigError: there is no model to embed with, or it is not known where the images lie that are to be copied.
        DataError: an image cannot be decoded.
        FgrayError: what embedding raises.
    """
    if resources.source is None:
        what = "the audit embeds what it injects, and embeddings made elsewhere come without a model"
        raise ConfigError(what, where="audit", fix="set audit: null")
    if sides.corpus.kind == "image":
        made, owner, transform = _copies(sides, anchor, positive, seed, resources)
        names = tuple(made.keys)
    else:
        made, owner, transform = _texts(sides, anchor, positive, seed)
        names = tuple(copy_key(t, sides.anchors.keys[anchor[at]]) for t, at in zip(transform, owner, strict=True))
    stored = to_fp32(to_stored(resources.embeddings(made), dtype), dtype)
    known = {key: at for key in made.keys if (at := find(sides.corpus.keys, key)) is not None} if made.kind == "text" else {}
    fresh = [key for key in dict.fromkeys(made.keys) if key not in known]
    place = known | {key: len(sides.corpus.keys) + at for at, key in enumerate(fresh)}
    row = np.array([place[key] for key in made.keys], np.int64)
    corpus = replace(sides.corpus, keys=[*sides.corpus.keys, *fresh], places=(*sides.corpus.places, *made.places))
    total = len(corpus.keys)
    truth = [_relinked(getattr(sides.anchors, links), anchor[owner], row, total) for links in ("images", "labels")]
    given = [_without(getattr(sides.corpus, links), row, total) for links in ("images", "labels")]
    hidden = replace(corpus, images=given[0], labels=given[1])
    visible = replace(corpus, images=(given[0] + truth[0]).tocsr(), labels=(given[1] + truth[1]).tocsr())
    return Injected(
        replace(sides, corpus=hidden, texts=_unlinked(sides.texts, made.keys) if made.kind == "text" else sides.texts),
        replace(sides, corpus=visible),
        row,
        owner,
        transform,
        names,
        stored,
    )


def find(keys: Sequence[str], key: str) -> int | None:
    """Return the place of a key among sorted ones."""
    at = bisect_left(keys, key)
    return at if at < len(keys) and keys[at] == key else None


def _copies(sides: Sides, anchor: Rows, positive: Rows, seed: int, resources: Resources) -> tuple[Side, Rows, tuple[str, ...]]:
    sources = [keys_of(sides, a, p)[-1] for a, p in zip(anchor.tolist(), positive.tolist(), strict=True)]
    owners = {key: at for at, key in enumerate(sources)}
    groups: list[tuple[ImageIndex, list[str]]] = []
    for index, keys in sides.images.places:
        here = [key for key in keys if key in owners]
        if here:
            groups.append((index, here))
    ordered = [key for _, here in groups for key in here]
    if len(ordered) != len(owners):
        fix = "name the folder of images, or set audit: null"
        raise ConfigError("the audit copies images, and the pairs do not say where they lie", where="audit", fix=fix)
    tables = [index.locate(here) for index, here in groups]
    rooted = [
        table.append_column("root", pa.array([index.root_uri] * table.num_rows, pa.string()))
        for table, (index, _) in zip(tables, groups, strict=True)
    ]
    copied = [copy_key(name, key) for name in TRANSFORMS for key in ordered]
    made = [(make_copies(pa.concat_tables(rooted), seed, resources.store_uri, resources.max_pixels), copied)] if rooted else []
    transform = tuple(name for name in (EXACT, *TRANSFORMS) for _ in ordered)
    owner = np.array([owners[key] for key in ordered] * (1 + len(TRANSFORMS)), np.int64)
    return _bare("image", [*(copy_key(EXACT, key) for key in ordered), *copied], (*groups, *made)), owner, transform


def _texts(sides: Sides, anchor: Rows, positive: Rows, seed: int) -> tuple[Side, Rows, tuple[str, ...]]:
    captions = sides.texts.images.tocsc()
    texts: list[str] = []
    owner: list[int] = []
    transform: list[str] = []
    for at, (a, p) in enumerate(zip(anchor.tolist(), positive.tolist(), strict=True)):
        base = keys_of(sides, a, p)[-1]
        linked = {sides.texts.keys[row] for image in entries(sides.anchors.images, a) for row in entries(captions, image)}
        others = sorted(linked - {base}, key=lambda text: hash_of(seed, PARAPHRASE, text))
        recased = sorted(_recased(base) - {base}, key=lambda text: hash_of(seed, RECASED, text))
        for name, found in ((PARAPHRASE, others), (RECASED, [text for text in recased if find(sides.corpus.keys, text) is None])):
            if found:
                texts.append(found[0])
                owner.append(at)
                transform.append(name)
    return _bare("text", texts, ()), np.array(owner, np.int64), tuple(transform)


def _recased(text: str) -> set[str]:
    """Return a caption in other letter case and with another end."""
    stem = text.rstrip(" .!?")
    return {form + end for form in (stem.upper(), stem.title(), stem.lower(), stem.capitalize()) for end in ("", ".", " .", "!")}


def _bare(kind: str, keys: Sequence[str], places: tuple[tuple[ImageIndex, Sequence[str]], ...]) -> Side:
    nothing = sparse.csr_matrix((len(keys), 0), dtype=bool)
    return Side("image" if kind == "image" else "text", keys, nothing, nothing, places)


def _unlinked(side: Side, keys: Sequence[str]) -> Side:
    rows = np.array([at for key in keys if (at := find(side.keys, key)) is not None], np.int64)
    total = len(side.keys)
    return replace(side, images=_without(side.images, rows, total), labels=_without(side.labels, rows, total))


def _without(links: sparse.csr_matrix, rows: Rows, total: int) -> sparse.csr_matrix:
    """Return links of `total` rows, those of `rows` and the ones after the given end empty."""
    cells = links.tocoo()
    kept = ~np.isin(cells.row, rows)
    return sparse.csr_matrix((cells.data[kept], (cells.row[kept], cells.col[kept])), (total, links.shape[1]), dtype=bool)


def _relinked(links: sparse.csr_matrix, source: Rows, rows: Rows, total: int) -> sparse.csr_matrix:
    """Return links of `total` rows: `rows` have those of `source`, the others none."""
    cells = links[source].tocoo()
    made = sparse.csr_matrix((cells.data, (rows[cells.row], cells.col)), (total, links.shape[1]), dtype=bool)
    made.sum_duplicates()
    return made
