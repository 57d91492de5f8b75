"""Models that fgray trained: a folder that plain open_clip loads, too, with a card that pins what the weights need.

The folder holds ``open_clip_config.json`` and ``open_clip_model.safetensors`` (``open_clip.create_model("local-dir:FOLDER")``
reads these two), and ``card.json``, written last. Where the text tower is one of Hugging Face's that lay in a local folder, its
configuration and tokenizer lie here, too; open_clip finds them as long as this folder is not moved, fgray also afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from fgray.config.schema import OpenClipModel
from fgray.errors import DataError, ModelError, NotFound
from fgray.models.base import ModelCard
from fgray.models.open_clip import TEXT_CONFIG, OpenClipSource
from fgray.models.preprocess import Preprocess
from fgray.storage import Storage, open_storage

if TYPE_CHECKING:
    from fgray.config.schema import TrainedModel

FOLDER = "model"  # of a training run
CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "card.json"
_FORMAT = "fgray model 1"
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)


@dataclass(frozen=True)
class TrainedCard:
    """What ``card.json`` says.

    Attributes:
        name: of the model, for tables.
        architecture: as the model it was made from names it.
        activation: "gelu" or "quick_gelu".
        sha256: of the weights file.
        origin: what made it: fingerprints of parents and data, the run's name, step, and so on.
    """

    name: str
    architecture: str
    activation: str
    sha256: str
    origin: Mapping[str, Any]


def write_trained(
    storage: Storage,
    state: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    preprocess: Preprocess,
    card: ModelCard,
    origin: Mapping[str, Any],
) -> TrainedCard:
    """Write a model folder; the card comes last, so a folder with a card is whole.

    Args:
        storage: the folder.
        state: the whole state dict under open_clip's names.
        settings: open_clip's model configuration.
        preprocess: how images are made into pixels.
        card: of the model that training started from.
        origin: see `TrainedCard`.
    """
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    facts = preprocess.describe()
    height, width = preprocess.size
    preprocess_cfg = {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
        "size": [height, width],
    }
    trained = TrainedCard(str(origin["name"]), card.architecture, card.activation, hashlib.sha256(data).hexdigest(), dict(origin))
    storage.write_bytes(WEIGHTS, data)
    model_cfg = {**settings, "text_cfg": _with_own_text_files(storage, settings["text_cfg"])}
    storage.write_bytes(CONFIG, _json({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}))
    content = {"format": _FORMAT, **vars(trained), "preprocess": facts, "dtype": "fp32"}
    storage.write_bytes(CARD, _json(content))
    return trained


def _with_own_text_files(storage: Storage, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Copy configuration and tokenizer of a Hugging Face text tower from the local folder that names them; return its settings.

    Nothing is copied to S3, from where neither open_clip nor transformers reads: there the settings name the folder that they named.
    """
    name = text_cfg.get("hf_model_name")
    if not storage.is_local or not name or not (Path(name) / TEXT_CONFIG).is_file():
        return dict(text_cfg)
    for file in (TEXT_CONFIG, *_TOKENIZER_FILES):
        if (Path(name) / file).is_file():
            storage.write_bytes(file, (Path(name) / file).read_bytes())
    return {**text_cfg, "hf_model_name": storage.uri, "hf_tokenizer_name": storage.uri}


def read_card(path: str) -> tuple[str, TrainedCard]:
    """Return the address of a model folder and its card.

    Args:
        path: the folder, or the run folder of a training job.

    Raises:
        NotFound: there is no model, because the run has not finished or the path is another one.
        DataError: the card is damaged or of another version.
    """
    fix = "name the folder of a finished train_clip run, or what fgray export wrote"
    for folder in (f"{path.rstrip('/')}/{FOLDER}", path.rstrip("/")):
        storage = open_storage(folder)
        try:
            content = json.loads(storage.read_bytes(CARD))
            if content["format"] != _FORMAT:
                raise DataError(f"a card of format '{content['format']}'", where=f"{folder}/{CARD}", fix="export the model again")
            return folder, TrainedCard(*(content[name] for name in ("name", "architecture", "activation", "sha256", "origin")))
        except NotFound:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"damaged model card ({error})", where=f"{folder}/{CARD}", fix=fix) from error
    raise NotFound("there is no trained model", where=path, fix=fix)


class TrainedSource(OpenClipSource):
    """A model that fgray trained, not yet loaded.

    Args:
        config: its configuration section.

    Raises:
        NotFound, DataError: as `read_card`.
        ModelError: the weights are not those that the card was written for.
    """

    def __init__(self, config: TrainedModel) -> None:
        folder, card = read_card(config.path)
        weights, architecture = f"{folder}/{WEIGHTS}", f"{folder}/{CONFIG}"
        if card.activation not in ("gelu", "quick_gelu"):
            raise DataError(f"unknown activation '{card.activation}'", where=f"{folder}/{CARD}", fix="export the model again")
        super().__init__(
            OpenClipModel(kind="open_clip", arch=architecture, weights=weights, activation=card.activation, dtype=config.dtype)
        )
        self.trained = card
        self.card = replace(
            self.card, name=card.name, kind=config.kind, architecture=card.architecture, weights=f"sha256 {card.sha256[:12]}", notes=()
        )

    def fingerprint(self) -> str:
        """Return a digest of everything that can change an embedding, see `OpenClipSource.fingerprint`.

        Raises:
            ModelError: the weights are not those that the card was written for.
        """
        found = super().fingerprint()
        if self._expected_sha256 != self.trained.sha256:
            raise ModelError(
                "the weights are not those that the card was written for",
                where=str(self._weights),
                fix="copy the folder again, or train or export again",
            )
        return found


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
