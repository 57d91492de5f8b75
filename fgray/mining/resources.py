"""What filters need to know about a side beyond its links: hashes, embeddings, normal forms; computed once, when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgray.data.index import INDEX_SCHEMA, ImageIndex
from fgray.embedding import Compute, embed, image_requests, plan_work, text_requests
from fgray.engine.store import ResultStore
from fgray.errors import ConfigError
from fgray.mining.candidates import Side
from fgray.mining.image_hash import Hashes, hash_images
from fgray.mining.texts import normal_form, token_set
from fgray.models.base import ModelSource

T = TypeVar("T")


class Resources:
    """Facts about sides, made through the engine and kept in the result store; in memory for as long as this object lives.

    Args:
        source: the model of the search; None where its vectors were made elsewhere.
        store_uri: the job's result store.
        compute: its workers and batches.
        max_pixels: larger images are quarantined.
    """

    def __init__(self, source: ModelSource | None, store_uri: str, compute: Compute, max_pixels: int) -> None:
        self.source, self.store_uri, self.compute, self.max_pixels = source, store_uri, compute, max_pixels
        self._known: dict[tuple[str | int, ...], tuple[Any, ...]] = {}  # the sides are kept, so that their ids stay theirs
        self._numbers: dict[str, int] = {}  # text -> a number that is the same on every side

    def hashes(self, side: Side) -> Hashes:
        """Return the perceptual hashes of the images of a side.

        Raises:
            FgrayError: an image cannot be read (one that cannot be decoded is marked as unknown instead).
        """
        return self.once("hashes", lambda: hash_images(side.places, self.store_uri, self.compute, self.max_pixels), side)

    def embeddings(self, side: Side, source: ModelSource | None = None) -> npt.NDArray[np.float32]:
        """Return unit rows, fp32 [N, D], of a side's images or texts; NaN where one could not be embedded.

        Args:
            side: whose rows.
            source: the model; default the one of the search.

        Raises:
            ConfigError: there is no model.
            FgrayError: what embedding raises.
        """
        model = source or self.source
        if model is None:
            what = "a filter or the audit compares embeddings of its own, and the job's model is precomputed"
            raise ConfigError(what, where="model", fix="use an encoder, or turn that comparison off")
        fingerprint = model.fingerprint()
        return self.once(f"embeddings {fingerprint}", lambda: self._embed(side, model, fingerprint), side)

    def normal_forms(self, side: Side) -> npt.NDArray[np.int64]:
        """Return a number per text, equal where texts are equal after normalisation, int64 [N]."""
        return self.once("normal forms", lambda: self._number(normal_form(text) for text in side.keys), side)

    def token_sets(self, side: Side) -> npt.NDArray[np.int64]:
        """Return a number per text, equal where texts consist of the same words, int64 [N]."""
        return self.once("token sets", lambda: self._number(" ".join(sorted(token_set(text))) for text in side.keys), side)

    def digests(self, side: Side) -> npt.NDArray[np.uint64]:
        """Return 64 well-mixed bits of each key, uint64 [N]."""
        return self.once("digests", lambda: np.array([_digest(side.kind, key) for key in side.keys], np.uint64), side)

    def number(self, text: str) -> int:
        """Return a number that stands for a text as long as this object lives."""
        return self._numbers.setdefault(text, len(self._numbers))

    def once(self, what: str, make: Callable[[], T], *sides: Side) -> T:
        """Return what `make` gives, made when first asked for by this name and these sides."""
        key: tuple[str | int, ...] = (what, *map(id, sides))
        if key not in self._known:
            self._known[key] = (make(), *sides)
        value: T = self._known[key][0]
        return value

    def _number(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        return np.array([self.number(text) for text in texts], np.int64)

    def _embed(self, side: Side, source: ModelSource, fingerprint: str) -> npt.NDArray[np.float32]:
        images = pa.concat_tables([image_requests(index, keys, fingerprint, self.max_pixels) for index, keys in side.places or [_NO_PLACE]])
        texts = text_requests(side.keys if side.kind == "text" else [], fingerprint)
        store = ResultStore(self.store_uri, fingerprint)
        embedded, _ = embed(plan_work(images, texts, store, self.compute.unit_rows), source, store, self.compute, self.max_pixels)
        if side.kind == "text":
            results, rows, asked = embedded.texts, embedded.text_rows, texts
        else:
            results, rows, asked = embedded.images, embedded.image_rows, images
        if not rows:
            return np.zeros((0, 1), np.float32)
        failed = np.array([error is not None for error in results.errors])
        values = np.where(failed[:, None], np.float32("nan"), results.values)
        return values[[rows[item] for item in asked["item_id"].to_pylist()]]


_NO_PLACE: tuple[ImageIndex, Sequence[str]] = (ImageIndex("", INDEX_SCHEMA.empty_table()), ())


def _digest(kind: str, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{kind}\0{key}".encode(), digest_size=8).digest(), "big")
