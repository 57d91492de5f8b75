"""CLIP and SigLIP folders give what transformers' own model, tokenizer and Pillow processor give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from fgray.config.schema import HuggingFaceModel
from fgray.errors import ModelError
from fgray.models import open_model

WORDS = ["a", "dog", "cat", "on", "the", "left", "right", "of", "two", "three", "zebras", "and", "no", "people", "red", "car"]
TEXTS = ["a dog on the left of a cat", "two zebras", "no people", "red " * 40]
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with CLIP's frame: start and end tokens, the end token also pads."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<unk>", "<start>", "<end>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    backend.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=frame)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<start>", eos_token="<end>", pad_token="<end>", model_max_length=12
    )


def save(folder: Path, kind: str) -> tuple[torch.nn.Module, PreTrainedTokenizerFast, object]:
    words = tokenizer()
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {**TEXT, **ends, "vocab_size": len(words)}
    torch.manual_seed(0)
    if kind == "clip":
        config = CLIPConfig(text_config={**text, "hidden_act": "quick_gelu"}, vision_config=VISION, projection_dim=24)
        model, processor = CLIPModel(config), CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    for part in (model.eval(), words, processor):
        part.save_pretrained(folder)
    return model, words, processor


def section(folder: Path, **options: str) -> HuggingFaceModel:
    return HuggingFaceModel(kind="hugging_face", path=str(folder), **options)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_equals_transformers(tmp_path: Path, kind: str) -> None:
    model, words, processor = save(tmp_path, kind)
    source = open_model(section(tmp_path))
    encoder = source.load("cpu")
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in ((50, 71), (41, 32), (32, 35))
    ]
    tokens = words(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    masked = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    if kind == "siglip":
        del masked["attention_mask"]  # its processor makes none
    with torch.inference_mode():
        images = model.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output
        texts = model.get_text_features(**masked).pooler_output
    ours = encoder.embed_texts(TEXTS)
    np.testing.assert_allclose(
        encoder.embed_images(np.stack([source.preprocess(picture) for picture in pictures])),
        torch.nn.functional.normalize(images),
        atol=2e-6,
    )
    np.testing.assert_allclose(ours.values, torch.nn.functional.normalize(texts), atol=2e-6)
    assert ours.truncated.tolist() == [False, False, False, True]
    assert source.card.context_length == 12 and source.card.image_size == (32, 32)
    assert source.card.activation == ("quick_gelu" if kind == "clip" else "gelu_pytorch_tanh")


def test_fingerprint_is_of_content(tmp_path: Path) -> None:
    save(tmp_path / "a", "clip")
    save(tmp_path / "b", "clip")
    same, other = (open_model(section(tmp_path / name)).fingerprint() for name in "ab")
    assert same == other
    assert open_model(section(tmp_path / "a", dtype="bf16")).fingerprint() != same
    file = tmp_path / "b/model.safetensors"
    state = load_file(file)
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, file, metadata={"format": "pt"})
    assert open_model(section(tmp_path / "b")).fingerprint() != same
    edit(tmp_path / "a/preprocessor_config.json", resample=2)
    assert open_model(section(tmp_path / "a")).fingerprint() != same


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_model(section(folder)).load("cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_do_not_fit_name_the_tensor(tmp_path: Path) -> None:
    save(tmp_path, "clip")
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    removed = state.pop("visual_projection.weight")
    save_file(state, file, metadata={"format": "pt"})
    assert "tensor 'visual_projection.weight' is missing" in refusal(tmp_path)
    save_file({**state, "visual_projection.weight": removed[:, :16].contiguous()}, file, metadata={"format": "pt"})
    message = refusal(tmp_path)
    assert "'visual_projection.weight' is [24, 16] in the checkpoint and [24, 32] in the model" in message
    save_file({**state, "visual_projection.weight": removed, "extra.weight": removed.clone()}, file, metadata={"format": "pt"})
    assert "'extra.weight' is not part of the model" in refusal(tmp_path)


def test_a_pickle_with_a_foreign_global_is_refused(tmp_path: Path) -> None:
    from tests.models.test_checkpoints import Evil

    save(tmp_path, "clip")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"logit_scale": torch.zeros(()), "extra": Evil()}, tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path)
    assert "system" in message and "refused" in message


def test_other_models_and_settings_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "clip")
    config = tmp_path / "preprocessor_config.json"
    original = config.read_text()
    for changes, reason in (
        ({"do_normalize": False}, "do_normalize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 1}, "resample"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"crop_size": {"height": 24, "width": 24}}, "the model takes 32 px"),
    ):
        edit(config, **changes)
        assert reason in refusal(tmp_path)
        config.write_text(original)
    edit(tmp_path / "config.json", model_type="bert")
    assert "model type 'bert' is not supported" in refusal(tmp_path)


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_one_line(path: str) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        open_model(HuggingFaceModel(kind="hugging_face", path=path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    save(tmp_path, "clip")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        open_model(section(tmp_path)).fingerprint()
