"""Operations and memory of architectures, against published figures and against what PyTorch itself keeps."""

from __future__ import annotations

import pytest
import torch

from fgray.config.schema import OpenClipModel, PythonModel, TinyModel
from fgray.launch.plan.architecture import architecture_of
from fgray.models.tiny import TinySource


@pytest.mark.parametrize(
    ("arch", "image", "text", "millions", "dimension"),
    [  # open_clip's docs/model_profile.csv, whose multiplications with an addition count once
        ("ViT-B-32", 2 * 4.41, 2 * 2.98, 151.28, 512),
        ("ViT-B-16", 2 * 17.58, 2 * 2.98, 149.62, 512),
    ],
)
def test_operations_as_open_clip_publishes_them(arch: str, image: float, text: float, millions: float, dimension: int) -> None:
    found = architecture_of(OpenClipModel(kind="open_clip", arch=arch))
    assert found is not None
    assert found.image.gflop == pytest.approx(image, rel=0.01)
    assert found.text.gflop == pytest.approx(text, rel=0.01)
    assert found.parameters / 1e6 == pytest.approx(millions, rel=1e-4)
    assert found.image.parameters + found.text.parameters == found.parameters
    assert found.dimension == dimension
    assert found.largest == 49408 * 512  # the embedding of tokens


def saved_by_autograd(run) -> int:
    """Return the bytes that autograd keeps for the backward pass, weights excepted."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor._base is None or (tensor._base is not None and not tensor._base.is_leaf):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return sum(kept.values())


def test_activations_are_those_that_autograd_keeps() -> None:
    config = TinyModel(kind="tiny")
    found = architecture_of(config)
    assert found is not None
    model = TinySource(config).module().eval()
    pixels, tokens = torch.rand(1, 3, 32, 32), torch.ones(1, 77, dtype=torch.long)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        image = saved_by_autograd(lambda: model.encode_image(pixels))
        text = saved_by_autograd(lambda: model.encode_text(tokens))
    assert found.image.saved_bytes == pytest.approx(image, rel=0.35)
    assert found.text.saved_bytes == pytest.approx(text, rel=0.35)
    assert found.image.forward_bytes < found.image.saved_bytes


def test_of_an_own_encoder_nothing_is_known() -> None:
    assert architecture_of(PythonModel(kind="python", path="own:Encoder")) is None
