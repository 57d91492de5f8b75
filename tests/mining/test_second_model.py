from __future__ import annotations

import numpy as np
import pytest

from fgray.config.schema import TinyModel
from fgray.data.decode import decode_image
from fgray.data.index import open_images
from fgray.mining.second_model import SecondModel
from fgray.models import open_model
from tests.mining.small_sides import full_candidates, small_resources, small_sides
from tests.small_data import write_picture

TEXTS = sorted(["a dog", "a cat on a mat", "seven men", "the sea", "a red bus in a street", "nothing", "two birds fly"])
SECOND = TinyModel(kind="tiny", seed=5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    images = [f"p{n}" for n in range(5)]
    for n, name in enumerate(images):
        write_picture(folder / f"{name}.png", n)
    (folder / "p4.png").write_bytes(b"no picture")
    return images, open_images(str(folder)), folder, tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
@pytest.mark.parametrize(("margin", "limit"), [(0.0, None), (-0.05, None), (None, 0.1), (0.02, 0.05)])
def test_votes_equal_a_loop(direction, margin, limit, world):
    images, index, folder, store = world
    sides = small_sides(direction, images, TEXTS, [(n % 5, n) for n in range(7)], index=index)
    model = open_model(SECOND).load("cpu")
    preprocess = open_model(SECOND).preprocess
    vectors = {text: model.embed_texts([text]).values[0] for text in TEXTS}
    for name in images[:4]:
        vectors[name] = model.embed_images(preprocess(decode_image((folder / f"{name}.png").read_bytes(), 10**7))[None])[0]
    candidates = full_candidates(sides)
    keep = SecondModel(model=SECOND, margin=margin, max_score=limit).keep(candidates, sides, small_resources(store))
    votes = 0
    for n in range(len(candidates)):
        anchor = vectors.get(sides.anchors.keys[candidates.anchor[n]])
        other = vectors.get(sides.corpus.keys[candidates.corpus[n]])
        positive = vectors.get(sides.positives.keys[candidates.positive[n]])
        drop = False
        if anchor is not None and other is not None:
            score = float(np.dot(anchor.astype(float), other.astype(float)))
            drop |= limit is not None and score > limit
            if margin is not None and positive is not None:
                bound = float(np.dot(anchor.astype(float), positive.astype(float))) - margin
                if abs(score - bound) < 1e-5:
                    continue  # within the model's own noise
                drop |= score > bound
        assert keep[n] == (not drop), (anchor is None, other is None)
        votes += drop
    assert 0 < votes < len(candidates)
