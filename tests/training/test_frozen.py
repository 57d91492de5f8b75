"""Frozen towers computed once: the same features, gradients and training as when they are computed in every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, PreTrainedTokenizerFast

import fgray
from fgray.config.loading import config_from_text
from fgray.config.schema import OpenClipModel
from fgray.errors import FgrayError
from fgray.training.model import Trainable, build_trainable
from tests.training.jobs import config, write_pairs

WORDS = ["[PAD]", "[UNK]", *["a", "red", "green", "blue", "yellow", "white", "square", "picture", ","], *map(str, range(30))]
FREEZE = ["visual.trunk.*", "text.transformer.*"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenClipModel:
    """A small convolutional tower and a small BERT, both with a linear head."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, pad_token_id=0, **sizes).save_pretrained(folder)
    settings = {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
        "text_cfg": {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 24,
        },
    }
    arch = tmp_path_factory.mktemp("arch") / "arch.json"
    arch.write_text(json.dumps(settings))
    return OpenClipModel(kind="open_clip", arch=str(arch), seed=1)


def inputs(trainable: Trainable, seed: int) -> tuple[torch.Tensor, torch.Tensor, int, torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    tokens = trainable.tokens(["a red square", "a blue square , picture 3", "green", "a white square", "a red", "picture 9"])
    return pixels, tokens, 4, torch.tensor([[4, 5], [5, -1], [-1, -1], [4, 4]]), torch.tensor([[4], [5], [-1], [4]])


def losses(output: dict[str, torch.Tensor]) -> torch.Tensor:
    total = output["scale"] * (output["image"] @ output["text"].T).diagonal().sum()
    return total + (output["negative_texts"] ** 3).sum() + (output["negative_images"] ** 3).sum()


def test_features_and_gradients_are_those_of_the_whole_towers(model: OpenClipModel) -> None:
    plain, kept = (build_trainable(model, freeze=FREEZE, keep_frozen=keep) for keep in (False, True))
    for seed in (0, 1, 0):  # the third time all of it is in memory
        gradients = []
        for trainable in (plain, kept):
            output = trainable.module(*inputs(trainable, seed))
            trainable.module.zero_grad()
            losses(output).backward()
            gradients.append({name: weight.grad for name, weight in trainable.module.named_weights().items() if weight.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() == {"logit_scale", "visual.head.proj.weight", "text.proj.weight"}
        for name, value in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-5)
    assert plain.module.state_dict().keys() == kept.module.state_dict().keys()


def test_a_trunk_computes_each_row_once(model: OpenClipModel) -> None:
    trainable = build_trainable(model, freeze=FREEZE, keep_frozen=True)
    rows: dict[str, int] = {"images": 0, "texts": 0}
    columns = []

    def count(name: str) -> Any:
        def hook(module: torch.nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            value = arguments[0] if arguments else options["input_ids"]
            rows[name] += len(value)
            columns.append(value.shape[1])

        return hook

    trainable.module.towers.visual.trunk.register_forward_pre_hook(count("images"), with_kwargs=True)
    trainable.module.towers.text.transformer.register_forward_pre_hook(count("texts"), with_kwargs=True)
    for seed in (0, 0, 1):
        trainable.module(*inputs(trainable, seed))
    assert rows == {"images": 12, "texts": 6}
    assert max(columns) == 6  # of a context of 24


def test_a_whole_frozen_tower_is_kept_and_one_that_trains_is_not(model: OpenClipModel) -> None:
    trainable = build_trainable(model, freeze=["visual.*"], keep_frozen=True)
    output = trainable.module(*inputs(trainable, 0))
    assert not output["image"].requires_grad and output["text"].requires_grad
    with pytest.raises(FgrayError, match=r"no tower is frozen up to its head.*visual\.trunk\.\*"):
        build_trainable(model, freeze=["logit_scale"], keep_frozen=True)


def test_a_run_is_the_run_without_it(model: OpenClipModel, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data")
    values = []
    for name, section in {"plain": {}, "kept": {"keep_frozen": True, "micro_batch": 4}, "zero": {"keep_frozen": True, "zero": 2}}.items():
        job = config(pairs, tmp_path / name, model=model.model_dump(), freeze=FREEZE, compute={"runner": "serial", **section})
        fgray.train(config_from_text(json.dumps(job), "job.yaml"))
        values.append([json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)
    np.testing.assert_allclose(values[2], values[0], rtol=1e-5)
    assert values[0][-1] < values[0][0]


@pytest.mark.parametrize("change", [{"augment": "random_resized_crop"}, {"dropout": True}, {"compute": {"keep_frozen": True, "zero": 3}}])
def test_what_would_be_wrong_with_it_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    job = config({"name": "spec_style"}, tmp_path, compute={"runner": "serial", "keep_frozen": True}) | change
    with pytest.raises(FgrayError, match="keep_frozen goes with neither"):
        config_from_text(json.dumps(job), "job.yaml")
