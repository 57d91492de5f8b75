"""A checkpoint on a real S3 server is the checkpoint on disk: same fingerprint, same embeddings."""

import json
from pathlib import Path

import numpy as np
import safetensors.torch

from fgray.config.schema import OpenClipModel
from fgray.models import open_model
from fgray.models.open_clip import build
from fgray.storage import open_storage
from tests.models.test_open_clip import CLIP


def test_weights_are_read_from_s3(tmp_path: Path, s3_bucket: str) -> None:
    (tmp_path / "arch.json").write_text(json.dumps(CLIP))
    safetensors.torch.save_file(build(CLIP).state_dict(), tmp_path / "weights.safetensors")
    open_storage(s3_bucket).write_bytes("models/weights.safetensors", (tmp_path / "weights.safetensors").read_bytes())
    places = (str(tmp_path / "weights.safetensors"), f"{s3_bucket}/models/weights.safetensors")
    sources = [
        open_model(OpenClipModel(kind="open_clip", arch=str(tmp_path / "arch.json"), weights=place, activation="gelu")) for place in places
    ]
    assert sources[0].fingerprint() == sources[1].fingerprint()
    size = sources[0].card.image_size
    pixels = np.random.default_rng(0).integers(0, 255, (2, *size, 3), dtype=np.uint8)
    local, remote = (source.load("cpu").embed_images(pixels) for source in sources)
    assert np.array_equal(local, remote)
