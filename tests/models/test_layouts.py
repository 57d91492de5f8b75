"""Checkpoints in other code bases' layouts: what those code bases' own builders would make of them computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import build_model_from_openai_state_dict

import fgray
from fgray.config.loading import config_from_text
from fgray.errors import ConfigError, FgrayError, ModelError
from fgray.models.layouts import write_layout
from tests.models.dense_reference import TEXT, clip_picture, eva_picture, eva_towers, shaken
from tests.models.test_eva_layout import shapes, tables
from tests.training.jobs import config, write_pairs

WIDE = {"image_size": 64, "layers": 2, "width": 128, "head_width": 64, "patch_size": 16}
WIDE_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}


def openai_towers(custom: bool = False, quick: bool = True, vision: dict | None = None, text: dict | None = None):
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return shaken(kind(32, {**WIDE, **(vision or {})}, {**WIDE_TEXT, **(text or {})}, quick_gelu=quick), 0)


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn((count, 3, 64, 64), generator=torch.Generator().manual_seed(3))


def test_eva_clips_layout_has_the_authors_names_and_features(tmp_path: Path) -> None:
    towers = eva_towers("fgray_test_eva02", 64, 24)
    write_layout(str(tmp_path / "eva.pt"), towers, "eva-clip")
    state = torch.load(tmp_path / "eva.pt", weights_only=True)
    expected = shapes(layers=3, width=48, hidden=128, embed=24, patch=16, tokens=17, text=TEXT)
    own_tables = tables(3, 4, 16)
    assert {name: list(tensor.shape) for name, tensor in state.items() if name not in own_tables} == expected
    for name, table in own_tables.items():
        torch.testing.assert_close(state[name], table, rtol=0, atol=1e-6)
    weights = {name.removeprefix("visual."): tensor.double().numpy() for name, tensor in state.items() if name.startswith("visual.")}
    with torch.inference_mode():
        found = towers.encode_image(pixels(), normalize=True).numpy()
    plain = [eva_picture(weights, picture.double().numpy(), 3, (4, 4), dense=False) for picture in pixels()]
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("custom", [False, True])
def test_openais_layout_builds_in_openais_way(custom: bool, tmp_path: Path) -> None:
    towers = openai_towers(custom)
    write_layout(str(tmp_path / "clip.pt"), towers, "openai-clip")
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    numbers = {name: int(state[name]) for name in ("input_resolution", "context_length", "vocab_size")}
    assert numbers == {"input_resolution": 64, "context_length": 16, "vocab_size": 49408}
    weights = {name.removeprefix("visual."): tensor.double().numpy() for name, tensor in state.items() if name.startswith("visual.")}
    built = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).float()
    tokens = open_clip.tokenize(["a red square", "two dogs"], context_length=16)
    with torch.inference_mode():
        found = towers.encode_image(pixels(), normalize=True).numpy()
        np.testing.assert_allclose(built.encode_image(pixels(), normalize=True).numpy(), found, atol=2e-3)  # it rounds weights to fp16
        torch.testing.assert_close(built.encode_text(tokens), towers.encode_text(tokens), rtol=1e-2, atol=1e-2)
    # Sizes from the shapes alone, as CAT-Seg's builder has them: heads of 64 channels, QuickGELU.
    heads, side = weights["conv1.weight"].shape[0] // 64, round((len(weights["positional_embedding"]) - 1) ** 0.5)
    plain = [clip_picture(weights, picture.double().numpy(), heads, (side, side), dense=False, quick=True) for picture in pixels()]
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quick": False}, "GELU"),
        ({"vision": {"head_width": 32}}, "its heads have not 64 channels"),
        ({"vision": {"mlp_ratio": 2.0}}, "four times the width"),
        ({"vision": {"ls_init_value": 0.1}}, "more parts"),
        ({"vision": {"no_ln_pre": True}}, "pools or normalises otherwise"),
        ({"vision": {"pool_type": "avg"}}, "pools or normalises otherwise"),
        ({"text": {"no_causal_mask": True}}, "pools or masks otherwise"),
        ({"text": {"pool_type": "last"}}, "pools or masks otherwise"),
        ({"custom": True, "text": {"pool_type": "last"}}, "pools or masks otherwise"),
        ({"vision": {"image_size": [64, 80]}}, "not square"),
    ],
)
def test_what_openais_code_would_compute_otherwise_is_not_written(changes: dict, why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"does not fit OpenAI's layout: .*{why}"):
        write_layout(str(tmp_path / "clip.pt"), openai_towers(**changes), "openai-clip")
    assert not list(tmp_path.iterdir())


def test_layouts_of_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model is no EVA-02 CLIP"):
        write_layout(str(tmp_path / "a.pt"), openai_towers(), "eva-clip")
    with pytest.raises(ModelError, match="not OpenAI's ViT"):
        write_layout(str(tmp_path / "a.pt"), eva_towers("fgray_test_eva02", 64, 24), "openai-clip")
    with pytest.raises(ConfigError, match="no layout is called 'eva'.*eva-clip"):
        write_layout(str(tmp_path / "a.pt"), openai_towers(), "eva")
    with pytest.raises(ConfigError, match="'a.bin' is no .pt file"):
        write_layout(str(tmp_path / "a.bin"), openai_towers(), "openai-clip")
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="there is such a file"):
        write_layout(str(tmp_path / "a.pt"), openai_towers(), "openai-clip")


def test_a_training_run_is_exported_in_a_layout(tmp_path: Path) -> None:
    arch = {"embed_dim": 32, "vision_cfg": {**WIDE, "image_size": 32}, "text_cfg": {**WIDE_TEXT, "context_length": 77}, "quick_gelu": True}
    (tmp_path / "arch.json").write_text(json.dumps(arch))
    model = {"kind": "open_clip", "arch": str(tmp_path / "arch.json"), "seed": 3}
    job = config(write_pairs(tmp_path / "data"), tmp_path / "run", model=model, steps=2)
    fgray.train(config_from_text(json.dumps(job), "job.yaml"))
    card = fgray.export(str(tmp_path / "run"), str(tmp_path / "clip.pt"), layout="openai-clip")
    assert card.origin["layout"] == "openai-clip" and card.origin["step"] == 2
    written, trained = torch.load(tmp_path / "clip.pt", weights_only=True), open_clip.create_model(f"local-dir:{tmp_path}/run/model")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(written[name], tensor)
    with pytest.raises(FgrayError, match="the model is no EVA-02 CLIP"):
        fgray.export(str(tmp_path / "run"), str(tmp_path / "eva.pt"), layout="eva-clip")
