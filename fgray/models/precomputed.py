"""Scores and embeddings that were made elsewhere, read strictly: what is doubled, missing or not a number is refused."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from fgray.errors import DataError, did_you_mean
from fgray.models.base import Embeddings
from fgray.models.fingerprint import digest_of
from fgray.storage import open_storage

if TYPE_CHECKING:
    from fgray.config.schema import PrecomputedModel

_COLUMNS = {"image": pa.string(), "text": pa.string(), "score": pa.float64()}
_SHOWN = 60  # characters of a text that an error message quotes


class PrecomputedScores(ABC):
    """What stands in for a model where its output was made elsewhere.

    Args:
        name: what made it, as reports call it.
        digests: sha256 of each input file, in a fixed order.
    """

    def __init__(self, name: str, digests: Sequence[str]) -> None:
        self.name, self._digests = name, list(digests)

    def fingerprint(self) -> str:
        """Return a digest of the content of the input files."""
        return digest_of({"kind": "precomputed", "files": self._digests})

    @abstractmethod
    def score(self, query_kind: str, query: str, candidate_kind: str, candidates: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return [N] scores of one query against candidates; kinds are "image" and "text".

        Raises:
            DataError: an image, text or pair is not there.
        """

    @abstractmethod
    def embed(self, kind: str, references: Sequence[str]) -> Embeddings | None:
        """Return unit-length embeddings [N, D] of images or texts; None where only scores of pairs exist.

        Raises:
            DataError: a reference is not there.
        """


def open_precomputed(config: PrecomputedModel) -> PrecomputedScores:
    """Read what the configuration names, from disk or S3.

    Raises:
        DataError: wrong columns or shapes, duplicates, values that are not finite, keys that do not match the rows.
        StorageError: a file cannot be read.
    """
    if config.scores is not None:
        return _open_pairs(config.name, config.scores)
    assert config.image_embeddings is not None and config.text_embeddings is not None  # the schema demands both
    tables, digests = {}, []
    for kind, uri in (("image", config.image_embeddings), ("text", config.text_embeddings)):
        tables[kind] = _Table(kind, uri)
        digests += tables[kind].digests
    (images, width), (texts, text_width) = ((table.uri, table.vectors.shape[1]) for table in tables.values())
    if width != text_width:
        what = f"image embeddings have {width} columns and text embeddings {text_width}"
        raise DataError(what, where=f"{images}, {texts}", fix="give embeddings of one model")
    return _Embedded(config.name, digests, tables)


def _read(uri: str) -> bytes:
    parent, _, name = uri.rpartition("/")
    return open_storage(parent or ("/" if uri.startswith("/") else ".")).read_bytes(name)


# --- scores of pairs ---------------------------------------------------------------------------------------------------


def _open_pairs(name: str, uri: str) -> PrecomputedScores:
    data, suffix = _read(uri), PurePosixPath(uri).suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise DataError(
            f"scores in '{suffix}' files cannot be read", where=uri, fix="give .parquet or .csv with columns image, text, score"
        )
    try:
        if suffix == ".parquet":
            table = pq.read_table(io.BytesIO(data))
        else:
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            convert = pyarrow.csv.ConvertOptions(column_types=_COLUMNS)
            table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"the scores cannot be read ({str(error).splitlines()[0]})", where=uri, fix="write columns image, text, score"
        ) from error
    for column in _COLUMNS:
        if column not in table.column_names:
            raise DataError(f"column '{column}' is missing", where=uri, fix="the columns are image, text and score")
    try:
        table = table.select(list(_COLUMNS)).cast(pa.schema(list(_COLUMNS.items()))).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"a column has the wrong type ({error})", where=uri, fix="image and text are strings, score is a number") from error
    if table.num_rows == 0:
        raise DataError("there are no scores", where=uri, fix="write one row for every pair of a case")
    for column in ("image", "text"):
        if table[column].null_count:
            raise DataError(
                f"row {pc.index(pc.is_null(table[column]), True).as_py()} has no {column}", where=uri, fix="remove or complete it"
            )
    scores = table["score"].to_numpy()
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        pair = f"({table['image'][wrong[0]]}, {_short(table['text'][wrong[0]].as_py())})"
        raise DataError(
            f"{wrong.size} scores are not finite numbers, the first in row {wrong[0]} {pair}", where=uri, fix="compute them again"
        )
    return _Pairs(name, hashlib.sha256(data).hexdigest(), uri, table["image"], table["text"], scores)


class _Pairs(PrecomputedScores):
    """Scores of (image, text) pairs, found by binary search over integer codes."""

    def __init__(
        self, name: str, digest: str, uri: str, images: pa.ChunkedArray, texts: pa.ChunkedArray, scores: npt.NDArray[np.float64]
    ) -> None:
        super().__init__(name, [digest])
        self._uri = uri
        coded = {kind: column.combine_chunks().dictionary_encode() for kind, column in (("image", images), ("text", texts))}
        self._codes = {kind: {value: code for code, value in enumerate(column.dictionary.to_pylist())} for kind, column in coded.items()}
        codes = self._pair_codes(*(column.indices.to_numpy().astype(np.int64) for column in coded.values()))
        order = np.argsort(codes, kind="stable")
        self._pairs, self._scores = codes[order], scores[order]
        doubled = np.flatnonzero(self._pairs[1:] == self._pairs[:-1])
        if doubled.size:
            row = int(order[doubled[0] + 1])
            pair = f"(image {images[row]}, text {_short(texts[row].as_py())})"
            raise DataError(f"duplicate pair {pair} in row {row}", where=uri, fix="keep one row of each pair")

    def _pair_codes(self, image: npt.NDArray[np.int64], text: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return image * len(self._codes["text"]) + text

    def score(self, query_kind: str, query: str, candidate_kind: str, candidates: Sequence[str]) -> npt.NDArray[np.float64]:
        def codes(kind: str, names: Sequence[str]) -> npt.NDArray[np.int64]:
            return np.array([self._codes[kind].get(name, -1) for name in names], np.int64)

        found = {query_kind: codes(query_kind, [query]), candidate_kind: codes(candidate_kind, candidates)}
        image, text = np.broadcast_arrays(found["image"], found["text"])
        wanted = np.where((image < 0) | (text < 0), -1, self._pair_codes(image, text))
        places = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        missing = np.flatnonzero(self._pairs[places] != wanted)
        if missing.size:
            names = {query_kind: query, candidate_kind: candidates[missing[0]]}
            pair = f"(image {names['image']}, text {_short(names['text'])})"
            raise DataError(f"there is no score for {pair}", where=self._uri, fix="add a row for every pair of a case")
        return self._scores[places]

    def embed(self, kind: str, references: Sequence[str]) -> None:
        return None


# --- embeddings --------------------------------------------------------------------------------------------------------


class _Table:
    """One ``.npy`` with the names of its rows."""

    def __init__(self, kind: str, uri: str) -> None:
        self.kind, self.uri = kind, uri
        if not uri.endswith(".npy"):
            raise DataError(
                f"{kind} embeddings in '{PurePosixPath(uri).suffix}' files cannot be read",
                where=uri,
                fix="save them with numpy.save as .npy",
            )
        keys_uri = uri.removesuffix(".npy") + ".keys.txt"
        data, names = _read(uri), _read(keys_uri)
        self.digests = [hashlib.sha256(part).hexdigest() for part in (data, names)]
        try:
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(
                "the file is no plain .npy of numbers (object arrays are refused)", where=uri, fix="save a float32 array [N, D]"
            ) from error
        if values.ndim != 2 or 0 in values.shape or not np.issubdtype(values.dtype, np.floating):
            raise DataError(f"embeddings are {values.dtype} {list(values.shape)}", where=uri, fix="save a float array [N, D]")
        try:
            keys = names.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise DataError("the keys are not UTF-8 text", where=keys_uri, fix="save them as UTF-8, one key a line") from error
        if len(keys) != len(values):
            raise DataError(
                f"{len(keys)} keys for {len(values)} rows", where=keys_uri, fix="write one key a line, in the order of the rows"
            )
        self.rows = {key: row for row, key in enumerate(keys)}
        if len(self.rows) != len(keys):
            doubled = next(key for row, key in enumerate(keys) if self.rows[key] != row)
            raise DataError(f"duplicate key '{_short(doubled)}'", where=keys_uri, fix="keep one row of each key")
        values = values.astype(np.float64)
        norms = np.linalg.norm(values, axis=1)
        wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if wrong.size:
            what = f"{wrong.size} embeddings are zero or not finite, the first is '{_short(keys[wrong[0]])}'"
            raise DataError(what, where=uri, fix="compute them again")
        self.vectors: Embeddings = (values / norms[:, None]).astype(np.float32)

    def take(self, references: Sequence[str]) -> Embeddings:
        for reference in references:
            if reference not in self.rows:
                raise DataError(
                    f"there is no {self.kind} embedding of '{_short(reference)}'",
                    where=self.uri,
                    fix=did_you_mean(reference, self.rows)[:200],
                )
        return self.vectors[[self.rows[reference] for reference in references]]


class _Embedded(PrecomputedScores):
    """Image and text embeddings; a score is their cosine."""

    def __init__(self, name: str, digests: Sequence[str], tables: dict[str, _Table]) -> None:
        super().__init__(name, digests)
        self._tables = tables

    def score(self, query_kind: str, query: str, candidate_kind: str, candidates: Sequence[str]) -> npt.NDArray[np.float64]:
        one = self._tables[query_kind].take([query])[0].astype(np.float64)
        scores: npt.NDArray[np.float64] = self._tables[candidate_kind].take(candidates).astype(np.float64) @ one
        return scores

    def embed(self, kind: str, references: Sequence[str]) -> Embeddings:
        return self._tables[kind].take(references)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
