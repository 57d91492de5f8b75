"""Architecture files beside the shipped configurations."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip

from fgray.config.schema import OpenClipModel
from fgray.models import open_model

PROJECT = Path(__file__).resolve().parents[2]


def test_eva02_is_open_clips_and_sees_pictures_as_fineclip_does() -> None:
    path = PROJECT / "configs" / "eval" / "eva02_b16_squash.json"
    assert json.loads(path.read_text())["model_cfg"] == open_clip.get_model_config("EVA02-B-16")
    source = open_model(OpenClipModel(kind="open_clip", arch=str(path), activation="gelu"))
    assert (source.preprocess.resize, source.preprocess.interpolation, source.preprocess.size) == ("squash", "bilinear", (224, 224))
    assert source.preprocess.mean == open_clip.OPENAI_DATASET_MEAN and source.preprocess.std == open_clip.OPENAI_DATASET_STD
