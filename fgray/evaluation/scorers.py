"""Where a case's scores come from: embeddings of the store, or scores and embeddings made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fgray.benchmarks.base import LoadedBenchmark
from fgray.embedding import Embedded, image_requests, region_requests, text_requests
from fgray.errors import DataError
from fgray.evaluation.samples import Scores
from fgray.evaluation.scoring import Scorer
from fgray.models.precomputed import PrecomputedScores

GATHERED = 1 << 22  # numbers of candidates' embeddings gathered at a time
GRID = 2.0**26  # embeddings are rounded to multiples of 1 / GRID, see `on_grid`


def on_grid(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return unit rows in float64, rounded to a grid on which their dot products have no rounding error.

    Products are then multiples of 2^-52, and no sum of some of them exceeds the product of the two lengths (Cauchy-Schwarz), which is
    about 1. So every partial sum fits into a float64, and a score is the same whatever the order of summation: the block that a query
    stands in, the place of a candidate, the number of threads, the library. Rounding moves a cosine by at most sqrt(D) 2^-26, which is
    4e-7 for 512 dimensions and far below what is called a near tie.
    """
    rounded: npt.NDArray[np.float64] = np.rint(vectors.astype(np.float64) * GRID) / GRID
    return rounded


class _Members(NamedTuple):
    """The distinct members of a pool: their embeddings on the grid, whether they have one, and which of them stands at each place."""

    vectors: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    place: npt.NDArray[np.int64]


class EmbeddingScores:
    """Cosines: the float64 dot product of stored fp32 unit vectors, without rounding error in the sum (`on_grid`).

    So candidates with equal embeddings (the same text twice, or in capitals for a model that reads lower case) tie exactly.
    """

    def __init__(
        self,
        vectors: Mapping[str, npt.NDArray[np.float32]],
        rows: Mapping[str, Mapping[str, int]],
        errors: Mapping[str, Sequence[str | None]],
    ):
        """Take embeddings and how references find them.

        Args:
            vectors: kind (image, text, prototype, region) -> fp32 [N, D], unit rows.
            rows: kind -> reference -> row.
            errors: kind -> per row why it has no embedding, or None.
        """
        self._vectors, self._rows, self._errors = vectors, rows, errors
        self._valid = {kind: np.array([reason is None for reason in errors[kind]], bool) for kind in vectors}
        self._last: tuple[str, Sequence[str], _Members] | None = None

    def list_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, candidates: Sequence[Sequence[str]]) -> Scores:
        """Return [Q, N] cosines of each query's own candidates."""
        query_rows = self._find(query_kind, queries)
        rows = self._find(candidate_kind, [reference for names in candidates for reference in names]).reshape(len(queries), -1)
        vectors, others = self._vectors[query_kind], self._vectors[candidate_kind]
        products = np.empty(rows.shape)
        step = max(1, GATHERED // max(1, rows.shape[1] * others.shape[1]))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            products[some] = np.matmul(on_grid(others[rows[some]]), on_grid(vectors[query_rows[some]])[:, :, None])[:, :, 0]
        products[~self._valid[candidate_kind][rows]] = np.nan
        products[~self._valid[query_kind][query_rows]] = np.nan
        return products

    def pool_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, pool: Sequence[str]) -> Scores:
        """Return [Q, N] cosines of the pool's members for each query."""
        members = self._members(candidate_kind, pool)
        rows = self._find(query_kind, queries)
        products = on_grid(self._vectors[query_kind][rows]) @ members.vectors.T
        products[:, ~members.valid] = np.nan
        products[~self._valid[query_kind][rows]] = np.nan
        return products[:, members.place]

    def _members(self, kind: str, pool: Sequence[str]) -> _Members:
        """Return a pool's members; the last pool is kept, because its queries come in many small groups."""
        if self._last is None or self._last[0] != kind or self._last[1] is not pool:
            distinct, place = np.unique(self._find(kind, pool), return_inverse=True)
            self._last = kind, pool, _Members(on_grid(self._vectors[kind][distinct]), self._valid[kind][distinct], place)
        return self._last[2]

    def reason(self, kind: str, reference: str) -> str:
        """Return why a reference has no embedding."""
        return self._errors[kind][self._rows[kind][reference]] or "no score"

    def _find(self, kind: str, references: Sequence[str]) -> npt.NDArray[np.int64]:
        rows = self._rows[kind]
        return np.fromiter((rows[reference] for reference in references), np.int64, len(references))


def average_prototypes(
    prototypes: Mapping[str, Sequence[str]], text_rows: Mapping[str, int], texts: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return [P, D] unit rows: the mean of each prototype's unit text embeddings, normalised again; zero where all of those are zero.

    This is CLIP_benchmark's prompt ensemble, with the mean taken in float64.
    """
    means = np.stack([texts[[text_rows[text] for text in members]].astype(np.float64).mean(axis=0) for members in prototypes.values()])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (means / np.where(norms == 0, 1, norms)).astype(np.float32)
    return unit


class PrecomputedPairs:
    """Scores of (image, text) pairs that were made elsewhere."""

    def __init__(self, source: PrecomputedScores, prototypes: Mapping[str, Sequence[str]]) -> None:
        self._source, self._prototypes = source, prototypes

    def list_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, candidates: Sequence[Sequence[str]]) -> Scores:
        """Return [Q, N] scores of each query's own candidates.

        Raises:
            DataError: a pair has no score, or a class has several prompts (scores cannot be averaged like embeddings).
        """
        return np.stack([self._score(query_kind, *pair, candidate_kind) for pair in zip(queries, candidates, strict=True)])

    def pool_scores(self, query_kind: str, queries: Sequence[str], candidate_kind: str, pool: Sequence[str]) -> Scores:
        """Return [Q, N] scores of the pool's members for each query; raises as `list_scores`."""
        return np.stack([self._score(query_kind, query, pool, candidate_kind) for query in queries])

    def _score(self, query_kind: str, query: str, candidates: Sequence[str], candidate_kind: str) -> Scores:
        if candidate_kind == "prototype":
            candidates, candidate_kind = [self._only_text(name) for name in candidates], "text"
        return self._source.score(query_kind, query, candidate_kind, candidates)

    def reason(self, kind: str, reference: str) -> str:
        """Return why a reference has no score; a missing pair is an error before it comes to that."""
        return f"no score for {kind} '{reference}'"

    def _only_text(self, name: str) -> str:
        texts = self._prototypes[name]
        if len(texts) != 1:
            raise DataError(
                f"'{name}' averages {len(texts)} prompts, which pair scores cannot do",
                fix="give embeddings, or one template in the benchmark's options",
            )
        return texts[0]


def embedding_scorer(loaded: LoadedBenchmark, fingerprint: str, max_pixels: int, embedded: Embedded) -> EmbeddingScores:
    """Return the scorer of one benchmark over the embeddings of a run."""
    images = image_requests(loaded.images, loaded.cases.references("image"), fingerprint, max_pixels)
    texts = text_requests(loaded.cases.references("text"), fingerprint)
    named = loaded.cases.named_regions()
    regions = region_requests(loaded.images, named, fingerprint, max_pixels)
    asked = {"image": (images["key"], images), "text": (texts["text"], texts), "region": (named["region_id"], regions)}
    vectors, rows, errors = {}, {}, {}
    for (kind, (references, requests)), (results, row_of) in zip(asked.items(), embedded.kinds(), strict=True):
        if requests.num_rows:
            ids = requests["item_id"].to_pylist()
            rows[kind] = {reference: row_of[id_] for reference, id_ in zip(references.to_pylist(), ids, strict=True)}
            vectors[kind], errors[kind] = results.values, results.errors
    return _with_prototypes(loaded, vectors, rows, errors)


def _with_prototypes(
    loaded: LoadedBenchmark,
    vectors: dict[str, npt.NDArray[np.float32]],
    rows: dict[str, dict[str, int]],
    errors: dict[str, list[str | None]],
) -> EmbeddingScores:
    prototypes = loaded.cases.prototypes
    if prototypes:
        vectors["prototype"] = average_prototypes(prototypes, rows["text"], vectors["text"])
        rows["prototype"] = {name: row for row, name in enumerate(prototypes)}
        reasons = [[errors["text"][rows["text"][text]] for text in texts] for texts in prototypes.values()]
        errors["prototype"] = [next((reason for reason in of_texts if reason), None) for of_texts in reasons]
    return EmbeddingScores(vectors, rows, errors)


def precomputed_scorer(loaded: LoadedBenchmark, scores: PrecomputedScores) -> Scorer:
    """Return the scorer of one benchmark over what was made elsewhere.

    Raises:
        DataError: the benchmark asks for regions of images, or a reference has neither score nor embedding.
    """
    if loaded.cases.references("region"):
        raise DataError("precomputed scores know no regions", where=loaded.info.name, fix="evaluate the model itself on this benchmark")
    references = {kind: loaded.cases.references(kind) for kind in ("image", "text")}
    vectors = {kind: scores.embed(kind, found) for kind, found in references.items() if found}
    if any(value is None for value in vectors.values()):
        return PrecomputedPairs(scores, loaded.cases.prototypes)
    rows = {kind: {reference: row for row, reference in enumerate(references[kind])} for kind in vectors}
    errors: dict[str, list[str | None]] = {kind: [None] * len(references[kind]) for kind in vectors}
    return _with_prototypes(loaded, {kind: value for kind, value in vectors.items() if value is not None}, dict(rows), errors)
