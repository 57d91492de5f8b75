"""EVA-CLIP's own checkpoints load under strict names and give the features of a plain forward over those names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from fgray.config.schema import OpenClipModel
from fgray.errors import ModelError
from fgray.models import open_model
from fgray.models.convert import convert_checkpoint
from fgray.models.dense import dense_tokens
from fgray.models.eva_layout import from_eva_layout, to_eva_layout
from tests.models.dense_reference import TEXT, eva_picture

VISION = {"image_size": 64, "timm_model_name": "fgray_test_eva02", "timm_pool": "token", "timm_proj": None}


def table(side: int, head: int, which: str, pretrained: int = 16) -> torch.Tensor:
    """EVA-CLIP's rotary table [side side, head]: pairs of equal entries, first those of the row, then those of the column."""
    rows = []
    for place in range(side * side):
        angles = []
        for axis in divmod(place, side):
            angles += [axis / side * pretrained * 10000.0 ** (-pair / (head // 4)) for pair in range(head // 4) for _ in range(2)]
        rows.append([getattr(math, which)(angle) for angle in angles])
    return torch.tensor(rows)


def shapes(layers: int, width: int, hidden: int, embed: int, patch: int, tokens: int, text: dict) -> dict[str, list[int]]:
    """Return names and shapes of an EVA-02 CLIP checkpoint without its tables, as its authors' modules name them."""
    found = {"logit_scale": [], "visual.cls_token": [1, 1, width], "visual.pos_embed": [1, tokens, width]}
    found |= {"visual.patch_embed.proj.weight": [width, 3, patch, patch], "visual.patch_embed.proj.bias": [width]}
    for number in range(layers):
        block = f"visual.blocks.{number}."
        norms = [("norm1", width), ("norm2", width), ("attn.inner_attn_ln", width), ("mlp.ffn_ln", hidden)]
        found |= {f"{block}{norm}.{kind}": [size] for norm, size in norms for kind in ("weight", "bias")}
        found |= {f"{block}attn.{name}_proj.weight": [width, width] for name in "qkv"}
        found |= {f"{block}attn.{name}": [width] for name in ("q_bias", "v_bias", "proj.bias")}
        found |= {f"{block}attn.proj.weight": [width, width], f"{block}mlp.w3.weight": [width, hidden], f"{block}mlp.w3.bias": [width]}
        for name in ("w1", "w2"):
            found |= {f"{block}mlp.{name}.weight": [hidden, width], f"{block}mlp.{name}.bias": [hidden]}
    found |= {f"visual.norm.{kind}": [width] for kind in ("weight", "bias")}
    found |= {"visual.head.weight": [embed, width], "visual.head.bias": [embed]}
    w = text["width"]
    found |= {"text.token_embedding.weight": [text["vocab_size"], w], "text.positional_embedding": [text["context_length"], w]}
    for number in range(text["layers"]):
        block = f"text.transformer.resblocks.{number}."
        found |= {f"{block}{norm}.{kind}": [w] for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        found |= {f"{block}attn.in_proj_weight": [3 * w, w], f"{block}attn.in_proj_bias": [3 * w]}
        found |= {f"{block}attn.out_proj.weight": [w, w], f"{block}attn.out_proj.bias": [w]}
        found |= {f"{block}mlp.c_fc.weight": [4 * w, w], f"{block}mlp.c_fc.bias": [4 * w]}
        found |= {f"{block}mlp.c_proj.weight": [w, 4 * w], f"{block}mlp.c_proj.bias": [w]}
    found |= {f"text.ln_final.{kind}": [w] for kind in ("weight", "bias")}
    return found | {"text.text_projection": [w, embed]}


def tables(layers: int, side: int, head: int) -> dict[str, torch.Tensor]:
    cosines, sines = table(side, head, "cos"), table(side, head, "sin")
    places = ["visual.rope", *(f"visual.blocks.{number}.attn.rope" for number in range(layers))]
    return {f"{place}.freqs_{which}": values for place in places for which, values in (("cos", cosines), ("sin", sines))}


def checkpoint(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a small EVA-02 CLIP with random weights under its authors' names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(layers=3, width=48, hidden=128, embed=24, patch=16, tokens=17, text=TEXT).items():
        gain = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        scale = 0.3 if len(shape) < 2 or "embed" in name and "patch" not in name else 1.5 / math.sqrt(math.prod(shape[1:]))
        state[name] = torch.randn(shape, generator=generator) * scale + gain
    return state | tables(3, 4, 16)


def opened(folder: Path, content: object, name: str = "weights.pt"):
    folder.mkdir(exist_ok=True)
    (folder / "arch.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}))
    torch.save(content, folder / name)
    config = OpenClipModel(kind="open_clip", arch=str(folder / "arch.json"), weights=str(folder / name), activation="gelu")
    return open_model(config).module().eval()


def prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


WRAPPINGS = {
    "as EVA-CLIP publishes": lambda state: state,
    "as FineCLIP and CLIPSelf save": lambda state: {
        "epoch": 10,
        "name": "coco_vitb16",
        "state_dict": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
        "scaler": {"scale": 65536.0},
    },
    "of a DDP module": lambda state: {"epoch": 1, "state_dict": prefixed(state)},
    "of DeepSpeed": lambda state: {"module": state, "global_steps": 7},
    "without tables": lambda state: {name: tensor for name, tensor in state.items() if "rope" not in name},
    "with tables of other sizes": lambda state: (
        state
        | {
            "visual.rope.flag": torch.tensor(1),
            "visual.rope.freqs_cos_36": table(6, 16, "cos"),
            "visual.rope.freqs_sin_36": table(6, 16, "sin"),
        }
    ),
    "with the scale in the text tower": lambda state: {
        ("text.logit_scale" if name == "logit_scale" else name): tensor for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_features_are_those_of_a_plain_forward_over_the_authors_names(wrapping: str, tmp_path: Path) -> None:
    state = checkpoint()
    model = opened(tmp_path / "model", WRAPPINGS[wrapping](state))
    weights = {name.removeprefix("visual."): tensor.double().numpy() for name, tensor in state.items() if name.startswith("visual.")}
    for size in (64, 96):
        pixels = torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(size))
        picture = pixels[0].double().numpy()
        with torch.inference_mode():
            tokens = dense_tokens(model, pixels)[0].numpy()
            if size == 64:
                whole = model.encode_image(pixels, normalize=True)[0].numpy()
                np.testing.assert_allclose(whole, eva_picture(weights, picture, 3, (4, 4), dense=False), atol=1e-5)
        np.testing.assert_allclose(tokens, eva_picture(weights, picture, 3, (4, 4), dense=True), atol=1e-5)
    for name, tensor in model.text.state_dict().items():
        assert torch.equal(tensor, state[f"text.{name}"])
    assert torch.equal(model.logit_scale.detach(), state["logit_scale"])


def test_half_precision_weights_and_tables_load(tmp_path: Path) -> None:
    state = checkpoint()
    model = opened(tmp_path / "model", {name: tensor.half() for name, tensor in state.items()})
    assert torch.equal(model.visual.trunk.blocks[1].mlp.fc1_x.weight, state["visual.blocks.1.mlp.w2.weight"].half().float())


def test_a_converted_checkpoint_loads_though_its_tables_share_memory(tmp_path: Path) -> None:
    state = checkpoint()
    assert state["visual.rope.freqs_cos"].data_ptr() == state["visual.blocks.0.attn.rope.freqs_cos"].data_ptr()
    torch.save({"epoch": 10, "state_dict": state}, tmp_path / "epoch_10.pt")
    converted = convert_checkpoint(str(tmp_path / "epoch_10.pt"), str(tmp_path / "weights.safetensors"))
    assert converted.tensors == len(state) and not converted.trusted
    (tmp_path / "arch.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}))
    config = OpenClipModel(kind="open_clip", arch=str(tmp_path / "arch.json"), weights=converted.path, activation="gelu")
    model = open_model(config).module()
    assert torch.equal(model.visual.trunk.head.weight, state["visual.head.weight"])


def broken(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = checkpoint() | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def test_a_checkpoint_that_lacks_a_tensor_or_has_one_too_many_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tensor 'visual.trunk.blocks.1.attn.v_proj.bias' \[48\] is missing"):
        opened(tmp_path / "a", broken(**{"visual.blocks.1.attn.v_bias": None}))
    with pytest.raises(ModelError, match=r"tensor 'visual.trunk.mask_token' \[1\] that the model lacks"):
        opened(tmp_path / "b", broken(**{"visual.mask_token": torch.zeros(1)}))
    with pytest.raises(ModelError, match=r"'visual.trunk.pos_embed' is \[1, 26, 48\] in the checkpoint and \[1, 17, 48\]"):
        opened(tmp_path / "c", broken(**{"visual.pos_embed": torch.zeros(1, 26, 48)}))


def test_other_rotary_angles_are_refused(tmp_path: Path) -> None:
    stretched = table(4, 16, "cos", pretrained=14)
    with pytest.raises(ModelError, match=r"the rotary table 'visual.blocks.2.attn.rope.freqs_cos' \[16, 16\] is not the architecture's"):
        opened(tmp_path / "a", broken(**{"visual.blocks.2.attn.rope.freqs_cos": stretched}))
    with pytest.raises(ModelError, match=r"rotary table 'visual.rope.freqs_sin' \[16, 16\]"):
        opened(tmp_path / "b", broken(**{"visual.rope.freqs_sin": table(4, 16, "cos")}))


def test_another_architecture_is_named_as_the_reason(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "weights.pt")
    config = OpenClipModel(kind="open_clip", arch="ViT-B-32", weights=str(tmp_path / "weights.pt"), activation="gelu")
    with pytest.raises(ModelError, match="these are weights of an EVA-02 CLIP"):
        open_model(config).module()


def test_the_way_back_gives_the_same_file(tmp_path: Path) -> None:
    state = checkpoint()
    again = to_eva_layout(opened(tmp_path / "model", state))
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6 if "rope" in name else 0)


@pytest.mark.parametrize(
    ("arch", "layers", "width", "hidden", "embed", "patch", "side", "text"),
    [
        ("EVA02-B-16", 12, 768, 2048, 512, 16, 14, {"width": 512, "layers": 12, "vocab_size": 49408, "context_length": 77}),
        ("EVA02-L-14-336", 24, 1024, 2730, 768, 14, 24, {"width": 768, "layers": 12, "vocab_size": 49408, "context_length": 77}),
    ],
)
def test_the_published_sizes_fit_to_the_last_name_and_shape(arch, layers, width, hidden, embed, patch, side, text) -> None:
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**{k: v for k, v in open_clip.get_model_config(arch).items() if k != "custom_text"})
        state = {name: torch.empty(shape) for name, shape in shapes(layers, width, hidden, embed, patch, side**2 + 1, text).items()}
    theirs = state | tables(layers, side, 64)
    converted = from_eva_layout(model, theirs, "")
    assert {name: tensor.shape for name, tensor in converted.items()} == {name: t.shape for name, t in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in to_eva_layout(model).items()} == {name: tensor.shape for name, tensor in theirs.items()}
