"""`tiny`: an open_clip model of two thin layers with random weights, for tests and dry runs. Its scores mean nothing."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import open_clip
import torch

from fgray.models.base import DualEncoder, ModelCard
from fgray.models.dense import dense_tokens
from fgray.models.fingerprint import digest_of
from fgray.models.open_clip import build, cell_size_of
from fgray.models.open_clip_text import OpenClipText
from fgray.models.preprocess import Preprocess
from fgray.models.torch_encoder import TorchEncoder

if TYPE_CHECKING:
    from fgray.config.schema import TinyModel

SETTINGS: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


class TinySource:
    """A tiny random model with CLIP's tokenizer.

    Args:
        config: its configuration section.
    """

    def __init__(self, config: TinyModel) -> None:
        self._seed = config.seed
        self.preprocess = Preprocess((32, 32))
        self.card = ModelCard(
            name=f"tiny (seed {config.seed})",
            kind=config.kind,
            architecture="CLIP, 2 + 2 layers of width 64",
            weights=f"random, seed {config.seed}",
            activation="gelu",
            dtype="fp32",
            image_size=self.preprocess.size,
            context_length=77,
            preprocess=self.preprocess.describe(),
            notes=("Random weights: its scores mean nothing",),
        )

    def fingerprint(self) -> str:
        """Return a digest of the seed, the architecture, the tokenizer and the libraries that draw the weights."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        drawn_by = {"torch": str(torch.__version__), "open_clip": open_clip.__version__}
        text = OpenClipText(SETTINGS["text_cfg"]).digest()
        return digest_of(
            {"kind": "tiny", "seed": self._seed, "settings": SETTINGS, "text": text, "preprocess": self.preprocess.describe(), **drawn_by}
        )

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the open_clip model configuration."""
        return deepcopy(SETTINGS)

    def module(self) -> Any:
        """Return the open_clip model with its weights drawn, fp32 on the CPU, in training mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return build(SETTINGS)

    def load(self, device: str) -> DualEncoder:
        """Draw the weights and build both towers."""
        model = self.module()
        model.eval().requires_grad_(False).to(device)
        towers = (model.encode_image, model.encode_text, OpenClipText(SETTINGS["text_cfg"]), partial(dense_tokens, model))
        return TorchEncoder(self.card, device, self.preprocess.mean, self.preprocess.std, *towers)

    def cell_size(self) -> int:
        """Return the side in px of a cell of its dense features."""
        return cell_size_of(SETTINGS)
