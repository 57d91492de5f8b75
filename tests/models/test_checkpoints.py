"""Checkpoints from outside: never unpickled, never resized in silence, errors in one line that names the tensor."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fgray.config.schema import OpenClipModel
from fgray.errors import ModelError, NotFound
from fgray.models import open_model
from fgray.models.checkpoints import read_state_dict
from fgray.models.open_clip import build
from tests.models.test_open_clip import CLIP, TEXT, VISION


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch should-never-exist",)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return build(CLIP).state_dict()


def refusal(tmp_path: Path, state: dict[str, torch.Tensor], settings: dict = CLIP) -> str:
    (tmp_path / "arch.json").write_text(json.dumps(settings))
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    config = OpenClipModel(
        kind="open_clip", arch=str(tmp_path / "arch.json"), weights=str(tmp_path / "weights.safetensors"), activation="gelu"
    )
    with pytest.raises(ModelError) as caught:
        open_model(config).load("cpu")
    assert "\n" not in str(caught.value) and "weights.safetensors" in str(caught.value)
    return str(caught.value)


def test_misshapen_tensor_is_named_with_both_shapes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wider = {**CLIP, "vision_cfg": {**VISION, "width": 96}}
    assert "tensor 'visual.class_embedding' is [64] in the checkpoint and [96] in the model" in refusal(tmp_path, state, wider)


def test_another_resolution_is_another_model(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    message = refusal(tmp_path, state, {**CLIP, "vision_cfg": {**VISION, "image_size": 64}})
    assert "'visual.positional_embedding' is [17, 64] in the checkpoint and [65, 64]" in message


def test_missing_tensor_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    del state["ln_final.weight"]
    assert "tensor 'ln_final.weight' [64] is missing" in refusal(tmp_path, state)


def test_left_over_tensor_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    shallow = {**CLIP, "text_cfg": {**TEXT, "layers": 1}}
    assert "it has tensor 'transformer.resblocks.1." in refusal(tmp_path, state, shallow)


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_a_pickle_with_a_foreign_global_is_refused_by_name(tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pt"
    if protocol == "zip":
        torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps({"x": Evil()}, protocol=2))
    with pytest.raises(ModelError, match=r"(posix|os)\.system.*refused.*safetensors") as caught:
        read_state_dict(str(file))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "should-never-exist").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_says_how_to_convert_it(tmp_path: Path) -> None:
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    with pytest.raises(ModelError, match=r"TorchScript archive.*fgray convert FILE weights\.safetensors --trust"):
        read_state_dict(str(file))


def test_plain_layouts_are_read_alike(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    openai = {**state, "input_resolution": torch.tensor(32), "context_length": torch.tensor(16), "vocab_size": torch.tensor(49408)}
    for name, content in (
        ("bare.pt", state),
        (
            "train.pt",
            {"epoch": 3, "name": "run", "state_dict": {"module." + key: value for key, value in state.items()}, "optimizer": {"lr": 0.1}},
        ),
        ("openai.pth", openai),
    ):
        torch.save(content, tmp_path / name)
        found, _ = read_state_dict(str(tmp_path / name))
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x00" * 20, "no readable safetensors"),
        ("cut.pt", b"PK\x03\x04 cut short", "no (readable|plain)"),
        ("empty.pt", b"", "no (readable|plain)"),
        ("weights.npz", b"", "'.npz' is not a checkpoint format"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_state_dict(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="no state dict"):
        read_state_dict(str(tmp_path / "list.pt"))


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.pt"):
        read_state_dict(str(tmp_path / "nowhere.pt"))
