"""open_clip's tokenizers: which one an architecture uses, its ids, how long a text really is, and its content digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer, default_bpe
from torch import Tensor

from fgray.errors import ModelError
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.hub import is_reachable
from fgray.models.torch_encoder import Tokens

_CLIPS_EXTRA_TOKENS = 3  # open_clip's "clips" mode: begin, end and class token


class OpenClipText:
    """Turns texts into the ids that a text tower of open_clip takes.

    Args:
        text_cfg: the ``text_cfg`` of an open_clip model configuration.

    Raises:
        ModelError: its Hugging Face tokenizer is neither on disk nor reachable.
    """

    def __init__(self, text_cfg: Mapping[str, Any]) -> None:
        self.context_length = int(text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH))
        options = dict(text_cfg.get("tokenizer_kwargs") or {})
        name = text_cfg.get("hf_tokenizer_name")
        if not name:
            self._tokenizer: Any = SimpleTokenizer(context_length=self.context_length, **options)
            return
        if not Path(name).is_dir() and not is_reachable():
            options["local_files_only"] = True  # what is cached serves; retrying an unreachable hub takes minutes
        try:
            self._tokenizer = HFTokenizer(
                name, context_length=self.context_length, tokenizer_mode=text_cfg.get("tokenizer_mode"), **options
            )
        except (OSError, ValueError, RuntimeError) as error:
            fix = "connect to the hub, or name a local folder as text_cfg.hf_tokenizer_name in a JSON config and give it as arch"
            raise ModelError(f"tokenizer '{name}' is neither a folder here nor reachable on the hub", fix=fix) from error

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return ids of the fixed context length and which texts were cut to it."""
        rows = self.ids(texts).tolist()
        return Tokens(rows, np.array([count > self.context_length for count in self._lengths(texts)], dtype=bool))

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Return ids int64 [N, context length] alone."""
        ids: Tensor = self._tokenizer(list(texts))
        return ids

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if isinstance(self._tokenizer, SimpleTokenizer):
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        clean, clips = self._tokenizer.clean_fn, self._tokenizer.tokenizer_mode == "clips"
        ids = self._tokenizer.tokenizer(
            [clean(text) for text in texts], add_special_tokens=not clips, truncation=False, verbose=False
        ).input_ids
        return [len(row) + (_CLIPS_EXTRA_TOKENS if clips else 0) for row in ids]

    def digest(self) -> str:
        """Return a hex digest of the vocabulary and of every rule that turns a text into ids."""
        facts: dict[str, Any] = {"context_length": self.context_length, "clean": self._tokenizer.clean_fn.__name__}
        if isinstance(self._tokenizer, SimpleTokenizer):
            return digest_of({**facts, "bpe": file_sha256(Path(default_bpe()))})
        facts |= {"mode": self._tokenizer.tokenizer_mode, "strip_sep_token": self._tokenizer.strip_sep_token}
        return digest_of({**facts, "tokenizer": tokenizer_digest(self._tokenizer.tokenizer)})


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a hex digest of a Hugging Face tokenizer's whole pipeline and vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    return digest_of({"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab(), "special": tokenizer.all_special_tokens})
