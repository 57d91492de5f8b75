"""Your own encoder: a plain class with `embed_images` and `embed_texts`, named by Python path or by a plug-in's name.

    class MyEncoder:
        image_size = 224                                    # or preprocess = Preprocess(...), or any picklable callable
        weight_files = ("~/models/my.safetensors",)         # optional: files whose content is part of the fingerprint

        def __init__(self, device: str, **options): ...
        def embed_images(self, pixels): ...                 # uint8 [N, H, W, 3] -> [N, D]
        def embed_texts(self, texts): ...                   # list of str -> [N, D], or fgray.models.TextEmbeddings

fgray scales rows to unit length and always calls `embed_texts` with the same number of texts (repeating the last), so that a
row's bits do not depend on how many others there are; pad each text by its own length to make it independent of their content.
Optional class attributes: `name`, `notes`, `context_length`, `activation`, and a class method `fingerprint(**options) -> str`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgray.errors import ModelError
from fgray.models.base import DualEncoder, Embeddings, ImagePreprocess, ModelCard, Pixels, TextEmbeddings
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.preprocess import Preprocess
from fgray.registry import import_object

if TYPE_CHECKING:
    from fgray.config.schema import PythonModel

TEXT_ROWS = 32  # texts of every call


class PythonSource:
    """An own encoder class, not yet instantiated.

    Args:
        config: its configuration section.

    Raises:
        ConfigError: the path cannot be imported, or no plug-in registered that name.
        ModelError: the class lacks a method, or says nothing about its image size.
    """

    def __init__(self, config: PythonModel) -> None:
        from fgray.models import ENCODERS

        self._path, self._options = config.path, dict(config.options)
        found = import_object(config.path) if ":" in config.path else ENCODERS.get(config.path)
        for method in ("embed_images", "embed_texts"):
            if not callable(getattr(found, method, None)):
                raise ModelError(f"the class has no method '{method}'", where=config.path, fix="see the own-encoder example in the README")
        self._class: Any = found
        self.preprocess = self._image_preprocess()
        size = np.shape(self.preprocess(Image.new("RGB", (64, 48))))
        if len(size) != 3 or size[2] != 3:
            raise ModelError(f"preprocess returns an array {list(size)}", where=config.path, fix="return uint8 [H, W, 3]")
        describe = getattr(self.preprocess, "describe", lambda: {"callable": type(self.preprocess).__qualname__})
        self.card = ModelCard(
            name=getattr(found, "name", config.path.rpartition(":")[2]),
            kind=config.kind,
            architecture=config.path,
            weights=", ".join(file.name for file in self._weight_files()) or "as the class loads them",
            activation=getattr(found, "activation", "as the class computes it"),
            dtype="fp32",
            image_size=(size[0], size[1]),
            context_length=getattr(found, "context_length", None),
            preprocess=describe(),
            notes=tuple(getattr(found, "notes", ())),
        )

    def _image_preprocess(self) -> ImagePreprocess:
        preprocess = getattr(self._class, "preprocess", None)
        if preprocess is not None:
            return preprocess  # type: ignore[no-any-return]
        size = getattr(self._class, "image_size", None)
        if not isinstance(size, int):
            raise ModelError(
                "the class says nothing about its images", where=self._path, fix="set image_size = 224 or preprocess = Preprocess(…)"
            )
        return Preprocess((size, size))

    def _weight_files(self) -> list[Path]:
        files = [Path(file).expanduser() for file in getattr(self._class, "weight_files", ())]
        files += [Path(value) for value in self._options.values() if isinstance(value, str) and Path(value).is_file()]
        for file in files:
            if not file.is_file():
                raise ModelError(f"there is no weight file '{file}'", where=self._path, fix="correct weight_files of the class")
        return files

    def fingerprint(self) -> str:
        """Return the class's own fingerprint, or a digest of its source file, its weight files and its options.

        Raises:
            ModelError: the class has no source file and no `fingerprint` of its own.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        facts: dict[str, Any] = {"kind": "python", "class": self._class.__qualname__, "preprocess": self.card.preprocess}
        own = getattr(self._class, "fingerprint", None)
        if own is not None and not inspect.ismethod(own):
            raise ModelError("fingerprint needs an instance", where=self._path, fix="make it a class method: fingerprint(cls, **options)")
        if own is not None:
            return digest_of({**facts, "own": own(**self._options)})
        try:
            source = inspect.getsourcefile(self._class)
            code = Path(source or "").read_bytes()
        except (TypeError, OSError) as error:
            raise ModelError(
                "the class has no source file to hash", where=self._path, fix="give it a class method fingerprint(**options)"
            ) from error
        # Options that name a file count by its content: the same weights elsewhere are the same model.
        plain = {key: None if isinstance(value, str) and Path(value).is_file() else value for key, value in self._options.items()}
        facts |= {"source": hashlib.sha256(code).hexdigest(), "options": plain}
        return digest_of({**facts, "weights": [file_sha256(file) for file in self._weight_files()]})

    def load(self, device: str) -> DualEncoder:
        """Instantiate the class for a device.

        Raises:
            ModelError: its constructor refuses the options.
        """
        try:
            encoder = self._class(device=device, **self._options)
        except TypeError as error:
            raise ModelError(
                f"the class cannot be built ({error})", where=self._path, fix="accept device and the options by name"
            ) from error
        return _OwnEncoder(self.card, encoder)


class _OwnEncoder:
    """Checks and completes what an own class returns."""

    def __init__(self, card: ModelCard, encoder: Any) -> None:
        self.card, self._encoder = card, encoder

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Return unit-length fp32 embeddings [N, D] of uint8 pixels [N, H, W, 3]."""
        return self._unit_rows(self._encoder.embed_images(pixels), len(pixels), "embed_images")

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Return unit-length fp32 embeddings [N, D], in calls of a fixed number of texts."""
        values, truncated = [], []
        for start in range(0, len(texts), TEXT_ROWS):
            chosen = list(texts[start : start + TEXT_ROWS])
            result = self._encoder.embed_texts(chosen + [chosen[-1]] * (TEXT_ROWS - len(chosen)))
            cut: npt.NDArray[np.bool_] = np.zeros(TEXT_ROWS, bool)
            if isinstance(result, TextEmbeddings):
                result, cut = result
            values.append(self._unit_rows(result, TEXT_ROWS, "embed_texts")[: len(chosen)])
            truncated.append(np.asarray(cut, bool)[: len(chosen)])
        return TextEmbeddings(np.concatenate(values), np.concatenate(truncated))

    def _unit_rows(self, values: Any, count: int, method: str) -> Embeddings:
        if hasattr(values, "detach"):  # a torch tensor, on whatever device
            values = values.detach().float().cpu().numpy()
        rows = np.asarray(values, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != count:
            raise ModelError(
                f"{method} returned {list(rows.shape)} for {count} inputs", where=self.card.architecture, fix="return one row [D] for each"
            )
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(norms).all() and (norms > 0).all()):
            raise ModelError(f"{method} returned rows that are zero or not finite", where=self.card.architecture, fix="check the encoder")
        unit: Embeddings = rows / norms
        return unit
