"""`fgray convert`: only tensors come out of a foreign file, its code runs in a process of its own, and only where it is trusted."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors
import safetensors.torch
import torch

import fgray
from fgray.config.schema import OpenClipModel
from fgray.errors import FgrayError, ModelError
from fgray.models import open_model
from fgray.models.open_clip import build
from tests.models.test_open_clip import CLIP

PROJECT = Path(__file__).resolve().parents[2]


class Tattler:
    """Writes what its process sees to a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        facts = "[os.getpid(), os.getcwd(), dict(os.environ), sys.flags.isolated]"
        code = f"import json, os, sys; open(%r, 'w').write(json.dumps({facts}))"
        return exec, (code % str(self.file),)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return build(CLIP).state_dict()


def released(state: dict[str, torch.Tensor], **extra: object) -> dict[str, object]:
    """The layout in which open_clip's training script saves, and so NegCLIP and CE-CLIP were released: DDP's prefix, optimizer, scaler."""
    wrapped = {f"module.{name}": value for name, value in state.items()}
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values() if value.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 7}
    return {"epoch": 5, "name": "negclip", "state_dict": wrapped, "optimizer": optimizer.state_dict(), "scaler": scaler, **extra}


def same(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())


def test_code_runs_apart_and_only_with_trust(tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    source, told = tmp_path / "foreign.pt", tmp_path / "told.json"
    torch.save(released(state, args=Tattler(told)), source)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "must-stay-here")
    with pytest.raises(FgrayError, match=r"wants to run '.*exec', which is refused.*foreign\.pt.*add --trust") as caught:
        fgray.convert(str(source), str(tmp_path / "out.safetensors"))
    assert "\n" not in str(caught.value)
    assert not told.exists() and not (tmp_path / "out.safetensors").exists()
    done = fgray.convert(str(source), str(tmp_path / "out.safetensors"), trust=True)
    pid, folder, environment, isolated = json.loads(told.read_text())
    assert pid != os.getpid() and isolated == 1
    assert "AWS_SECRET_ACCESS_KEY" not in environment and not Path(folder).exists()
    assert done.trusted and done.tensors == len(state)
    assert same(safetensors.torch.load_file(done.path), state)
    with safetensors.safe_open(done.path, "pt") as file:
        assert file.metadata() == {"format": "pt", "source_sha256": done.source_sha256}


def test_classes_that_are_not_installed_do_not_matter(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("their_training")
    options = type("Options", (dict,), {"__module__": "their_training"})
    module.Options = options
    monkeypatch.setitem(sys.modules, "their_training", module)
    arguments = options(lr=1e-6)
    arguments.nested = argparse.Namespace(epochs=5)
    torch.save(released(state, args=arguments, best=np.float64(0.8)), tmp_path / "theirs.pt")
    assert same(
        safetensors.torch.load_file(fgray.convert(str(tmp_path / "theirs.pt"), str(tmp_path / "out.safetensors"), True).path), state
    )


def test_a_whole_module_gives_its_state(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    model = build(CLIP)
    torch.save(model, tmp_path / "module.pt")
    done = fgray.convert(str(tmp_path / "module.pt"), str(tmp_path / "out.safetensors"), True)
    assert same(safetensors.torch.load_file(done.path), model.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_archive_of_openai_gives_its_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    class Archive(torch.nn.Module):
        """OpenAI's archives hold CLIP with three plain numbers as tensors, its matrices in half precision."""

        def __init__(self) -> None:
            super().__init__()
            for name, value in state.items():
                owner = self
                *parents, last = name.split(".")
                for parent in parents:
                    if not hasattr(owner, parent):
                        owner.add_module(parent, torch.nn.Module())
                    owner = getattr(owner, parent)
                owner.register_parameter(last, torch.nn.Parameter(value.half() if value.ndim > 1 else value))
            for name, number in (("input_resolution", 32), ("context_length", 16), ("vocab_size", 49408)):
                self.register_buffer(name, torch.tensor(number))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.logit_scale

    torch.jit.save(torch.jit.script(Archive()), str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(FgrayError, match="TorchScript archive.*add --trust"):
        fgray.convert(str(tmp_path / "ViT-B-32.pt"), str(tmp_path / "out.safetensors"))
    done = fgray.convert(str(tmp_path / "ViT-B-32.pt"), str(tmp_path / "out.safetensors"), True)
    assert same(safetensors.torch.load_file(done.path), {name: value.half() if value.ndim > 1 else value for name, value in state.items()})
    (tmp_path / "arch.json").write_text(json.dumps(CLIP))
    model = OpenClipModel(kind="open_clip", arch=str(tmp_path / "arch.json"), weights=done.path, activation="quick_gelu")
    assert open_model(model).load("cpu").embed_texts(["a dog"]).values.shape == (1, CLIP["embed_dim"])


@pytest.mark.parametrize("converted", [False, True])
def test_released_checkpoints_load_by_their_layout(tmp_path: Path, state: dict[str, torch.Tensor], converted: bool) -> None:
    """NegCLIP's and CE-CLIP's layout, of a small architecture; SPEC-CLIP's is not known beyond "open_clip loads it by path"."""
    (tmp_path / "arch.json").write_text(json.dumps({**CLIP, "quick_gelu": True}))
    file = tmp_path / "epoch_5.pt"
    torch.save(released(state), file)
    if converted:
        done = fgray.convert(str(file), str(tmp_path / "weights.safetensors"))  # plain tensors need no trust
        assert not done.trusted
        file = Path(done.path)
    config = {"kind": "open_clip", "arch": str(tmp_path / "arch.json"), "weights": str(file)}
    with pytest.raises(ModelError, match="does not say which activation"):
        open_model(OpenClipModel(**config))
    encoder = open_model(OpenClipModel(**config, activation="quick_gelu")).load("cpu")
    reference = open_clip.CLIP(**CLIP, quick_gelu=True)
    reference.load_state_dict(state)
    texts = open_clip.SimpleTokenizer(context_length=CLIP["text_cfg"]["context_length"])(["two dogs and a cat"])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(reference.eval().encode_text(texts), dim=-1).numpy()
    np.testing.assert_allclose(encoder.embed_texts(["two dogs and a cat"]).values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.text_projection"), "tensor 'text_projection' .* is missing"),
        (
            lambda state: state.update({"module.projector.weight": torch.zeros(2, 2)}),
            r"has tensor 'projector\.weight' \[2, 2\] that the model",
        ),
    ],
)
def test_released_checkpoints_must_fit_name_by_name(tmp_path: Path, state: dict[str, torch.Tensor], change, message: str) -> None:
    content = released(state)
    change(content["state_dict"])
    torch.save(content, tmp_path / "epoch_5.pt")
    (tmp_path / "arch.json").write_text(json.dumps(CLIP))
    model = OpenClipModel(kind="open_clip", arch=str(tmp_path / "arch.json"), weights=str(tmp_path / "epoch_5.pt"), activation="quick_gelu")
    with pytest.raises(ModelError, match=message):
        open_model(model).load("cpu")


class Killer:
    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": Killer()}, "cannot be loaded .*status 9"),
        ({"options": argparse.Namespace(lr=1)}, "holds no state dict"),
        (object(), "holds no state dict"),
    ],
)
def test_what_gives_no_weights_is_one_line(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=message) as caught:
        fgray.convert(str(tmp_path / "bad.pt"), str(tmp_path / "out.safetensors"), True)
    assert "\n" not in str(caught.value) and "bad.pt" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_and_its_refusals(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "plain.pt")
    command = [sys.executable, "-m", "fgray", "convert", str(tmp_path / "plain.pt")]
    done = subprocess.run([*command, str(tmp_path / "out.safetensors")], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensors"] == len(state)
    with pytest.raises(FgrayError, match="there is such a file"):
        fgray.convert(str(tmp_path / "plain.pt"), str(tmp_path / "out.safetensors"))
    with pytest.raises(FgrayError, match="ends in .safetensors"):
        fgray.convert(str(tmp_path / "plain.pt"), str(tmp_path / "out.pt"))
