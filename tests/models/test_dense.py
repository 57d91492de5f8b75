"""Dense features equal a plain float64 forward, at the tower's own size and at others, square and not."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch

from fgray.errors import ModelError
from fgray.models.dense import dense_tokens, image_and_tokens
from tests.models.dense_reference import TEXT, arrays, clip_picture, clip_towers, eva_names, eva_picture, eva_towers, shaken, unit

SIZES = [(64, 64), (96, 96), (48, 80)]  # own, larger, not square


def noise(height: int, width: int, count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn((count, 3, height, width), generator=torch.Generator().manual_seed(seed))


def tokens_of(towers, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return dense_tokens(towers, pixels).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_small_eva02_equals_the_plain_forward(size: tuple[int, int]) -> None:
    towers, pixels = eva_towers("fgray_test_eva02", 64, 24), noise(*size)
    weights = eva_names(towers.visual.trunk)
    expected = [eva_picture(weights, picture.double().numpy(), 3, (4, 4), dense=True) for picture in pixels]
    np.testing.assert_allclose(tokens_of(towers, pixels), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(224, 224), (160, 160)])
def test_eva02_b16_with_fewer_layers_equals_the_plain_forward(size: tuple[int, int]) -> None:
    towers, pixels = eva_towers("fgray_test_eva02_b16", 224, 512), noise(*size, count=1)
    expected = eva_picture(eva_names(towers.visual.trunk), pixels[0].double().numpy(), 12, (14, 14), dense=True)
    np.testing.assert_allclose(tokens_of(towers, pixels)[0], expected, atol=1e-5)


def test_the_plain_eva02_forward_is_timms_forward() -> None:
    towers, pixels = eva_towers("fgray_test_eva02", 64, 24), noise(64, 64)
    weights = eva_names(towers.visual.trunk)
    expected = [eva_picture(weights, picture.double().numpy(), 3, (4, 4), dense=False) for picture in pixels]
    with torch.inference_mode():
        np.testing.assert_allclose(towers.encode_image(pixels, normalize=True).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.5}])
@pytest.mark.parametrize("quick", [False, True])
def test_openai_style_vit_equals_the_plain_forward(size: tuple[int, int], vision: dict, quick: bool) -> None:
    settings = {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16, **vision}
    towers = shaken(open_clip.CLIP(embed_dim=24, vision_cfg=settings, text_cfg=TEXT, quick_gelu=quick), 0)
    pixels = noise(*size)
    weights = arrays(towers.visual)
    expected = [clip_picture(weights, picture.double().numpy(), 3, (4, 4), dense=True, quick=quick) for picture in pixels]
    np.testing.assert_allclose(tokens_of(towers, pixels), expected, atol=1e-5)


def test_the_plain_vit_forward_is_open_clips_forward() -> None:
    towers, pixels = clip_towers(), noise(64, 64)
    expected = [clip_picture(arrays(towers.visual), picture.double().numpy(), 3, (4, 4), dense=False) for picture in pixels]
    with torch.inference_mode():
        np.testing.assert_allclose(towers.encode_image(pixels, normalize=True).numpy(), expected, atol=1e-5)


def test_fused_query_key_value_weights_of_eva02() -> None:
    vision = {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": "linear"}
    towers = shaken(open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT), 0)
    trunk = towers.visual.trunk
    trunk.blocks = trunk.blocks[:1]
    pixels = noise(28, 42, count=1)
    with torch.inference_mode():
        grid = trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        places = torch.nn.functional.interpolate(
            trunk.pos_embed[:, 1:].reshape(1, 16, 16, -1).permute(0, 3, 1, 2), (2, 3), mode="bicubic", align_corners=False
        )
        x = grid + places.flatten(2).transpose(1, 2)
        block, width = trunk.blocks[0], x.shape[-1]
        value = block.norm1(x) @ block.attn.qkv.weight[2 * width :].T + block.attn.v_bias
        x = x + block.attn.proj(value)
        x = trunk.fc_norm(x + block.mlp(block.norm2(x)))  # in this architecture, norm is the identity
        expected = unit(towers.visual.head(x).numpy()).reshape(1, 2, 3, -1)
    np.testing.assert_allclose(tokens_of(towers, pixels), expected, atol=1e-5)


def test_cells_of_a_convolutional_tower_average_to_the_picture() -> None:
    vision = {"image_size": 224, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear"}
    torch.manual_seed(0)
    towers = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).eval()
    pixels = noise(96, 128)
    with torch.inference_mode():
        cells = towers.visual.trunk.forward_features(pixels).permute(0, 2, 3, 1) @ towers.visual.head.proj.weight.T
        np.testing.assert_allclose(cells.mean(dim=(1, 2)).numpy(), towers.encode_image(pixels).numpy(), atol=1e-5)
    assert cells.shape == (2, 3, 4, 16)
    np.testing.assert_allclose(tokens_of(towers, pixels), unit(cells.double().numpy()), atol=1e-5)


@pytest.mark.parametrize("make", [lambda: eva_towers("fgray_test_eva02", 64, 24), clip_towers])
def test_gradients_reach_every_weight_that_tokens_depend_on_and_checkpointing_keeps_them(make) -> None:
    def gradients(recompute: bool) -> dict[str, torch.Tensor | None]:
        towers = make()
        towers.set_grad_checkpointing(recompute)
        tokens = dense_tokens(towers, noise(96, 96))
        (tokens * noise(*tokens.shape[2:], count=1, seed=2)[:, :1, : tokens.shape[1]].mean()).sum().backward()
        return {name: parameter.grad for name, parameter in towers.visual.named_parameters()}

    plain, recomputed = gradients(False), gradients(True)
    unused = {name for name, gradient in plain.items() if gradient is None or not gradient.any()}
    last = "blocks.2.attn"
    assert all(last in name and ("q_proj" in name or "k_proj" in name) for name in unused)
    for name, gradient in plain.items():
        if gradient is not None:
            torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


def test_checkpointing_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(recompute: bool) -> int:
        towers, sizes = clip_towers(), []
        towers.set_grad_checkpointing(recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
            dense_tokens(towers, noise(96, 96))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_half_precision_towers_give_tokens() -> None:
    for towers in (eva_towers("fgray_test_eva02", 64, 24), clip_towers()):
        exact = tokens_of(towers, noise(96, 96))
        with torch.inference_mode():
            rough = dense_tokens(towers.to(torch.bfloat16), noise(96, 96).to(torch.bfloat16)).float().numpy()
        assert (rough * exact).sum(axis=-1).min() > 0.98


def test_towers_without_dense_features_say_so_in_one_line() -> None:
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}
    residual = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT)
    pooled = clip_towers(attentional_pool=True, attn_pooler_heads=2)
    siglip = {"image_size": 256, "timm_model_name": "vit_base_patch32_siglip_256", "timm_pool": "map", "timm_proj": "none"}
    for towers in (residual, pooled, open_clip.CustomTextCLIP(embed_dim=768, vision_cfg=siglip, text_cfg=TEXT)):
        with pytest.raises(ModelError, match="gives no dense features") as caught:
            dense_tokens(towers, noise(32, 32))
        assert "\n" not in str(caught.value)


def test_dropped_patches_are_refused_in_training_and_do_not_count_after_it() -> None:
    towers = clip_towers(patch_dropout=0.5)
    assert tokens_of(towers, noise(64, 64)).shape == (2, 4, 4, 24)
    with pytest.raises(ModelError, match="patch dropout leaves holes"):
        dense_tokens(towers.train(), noise(64, 64))


def test_a_size_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(ModelError, match="40 x 64 px do not divide into cells of 16"):
        dense_tokens(clip_towers(), noise(40, 64))


def lite0_towers():
    vision = {"image_size": 64, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear"}
    torch.manual_seed(0)
    return open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).eval()


@pytest.mark.parametrize("make", [lambda: eva_towers("fgray_test_eva02", 64, 24), clip_towers, lite0_towers])
def test_pictures_and_tokens_in_one_pass_equal_two(make) -> None:
    """Values and gradients; tokens of two of three pictures."""
    pixels, pictures = noise(64, 64, count=3), torch.tensor([2, 0])
    found = []
    for once in (True, False):
        towers = make()
        if once:
            images, tokens = image_and_tokens(towers, pixels, pictures)
        else:
            images, tokens = towers.encode_image(pixels), dense_tokens(towers, pixels[pictures])
        (images.pow(3).sum() + tokens[..., :3].pow(2).sum()).backward()
        gradients = {name: weight.grad for name, weight in towers.visual.named_parameters() if weight.grad is not None}
        found.append((images, tokens, gradients))
    (images, tokens, gradients), (expected_images, expected_tokens, expected) = found
    torch.testing.assert_close(images, expected_images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens, expected_tokens, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6


@pytest.mark.parametrize("make", [lambda: eva_towers("fgray_test_eva02", 64, 24), clip_towers])
def test_a_picture_of_another_size_equals_the_plain_forward(make) -> None:
    towers, pixels = make(), noise(96, 96)
    with torch.inference_mode():
        found = image_and_tokens(towers, pixels, torch.tensor([0]))[0]
    eva = hasattr(towers.visual, "trunk")
    weights = eva_names(towers.visual.trunk) if eva else arrays(towers.visual)
    picture = eva_picture if eva else clip_picture
    expected = [picture(weights, one.double().numpy(), 3, (4, 4), dense=False) for one in pixels]
    np.testing.assert_allclose(unit(found.double().numpy()), expected, atol=1e-5)
