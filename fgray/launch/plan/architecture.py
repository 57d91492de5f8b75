"""What one image or text costs a model: operations and memory, counted on a model without weights (PyTorch's meta device)."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fgray.config.schema import HuggingFaceModel, Lite0MiniLmModel, ModelConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Tower:
    """One item through one tower.

    Attributes:
        parameters: of the tower.
        gflop: operations of a forward pass, a multiplication and an addition counting as two.
        forward_bytes: most memory that the intermediate results of a forward pass take at a time, in fp32.
        saved_bytes: of intermediate results that a backward pass needs, in fp32.
    """

    parameters: int
    gflop: float
    forward_bytes: int
    saved_bytes: int


@dataclass(frozen=True)
class Architecture:
    """A dual encoder.

    Attributes:
        image, text: its towers; an item is one picture, or one text of full length.
        parameters: of the whole model.
        largest: parameters of the largest single module, which ZeRO-3 gathers as a whole.
        dimension: of its embeddings.
        names: of all parameters, as open_clip has them, with their numbers.
    """

    image: Tower
    text: Tower
    parameters: int
    largest: int
    dimension: int
    names: tuple[tuple[str, int], ...] = ()


def architecture_of(config: ModelConfig) -> Architecture | None:
    """Return the architecture of a model; None for one of which nothing is known before it is loaded (an encoder of your own).

    Raises:
        FgrayError: the section contradicts itself, or its files are not here.
    """
    settings = _settings(config)
    return None if settings is None else _measured(_Frozen(settings))


def _settings(config: ModelConfig) -> dict[str, Any] | None:
    """Return open_clip's settings of a model, or those of one with the same towers."""
    if isinstance(config, Lite0MiniLmModel):
        from fgray.config.schema import Lite0MiniLmClipModel

        config = Lite0MiniLmClipModel(kind="lite0-minilm-clip")
    if isinstance(config, HuggingFaceModel) or config.kind in ("python", "precomputed"):
        return None
    from fgray.models import open_model

    settings: dict[str, Any] | None = getattr(open_model(config), "settings", None)
    return settings


class _Frozen:
    """Settings as a key of the cache."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self._text = settings, repr(settings)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and other._text == self._text


@lru_cache(maxsize=8)
def _measured(frozen: _Frozen) -> Architecture:
    import torch

    from fgray.models.open_clip import build

    settings = frozen.settings
    with torch.device("meta"):
        model = build(settings)
    size = settings["vision_cfg"].get("image_size", 224)
    height, width = size if isinstance(size, tuple | list) else (size, size)
    length = settings["text_cfg"].get("context_length", 77)
    pixels = torch.zeros(1, 3, height, width, device="meta")
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    visual = sum(parameter.numel() for parameter in model.visual.parameters())
    names = tuple((name, parameter.numel()) for name, parameter in model.named_parameters())
    whole = sum(count for _, count in names)
    largest = max(sum(one.numel() for one in module.parameters(recurse=False)) for module in model.modules())
    image = _tower(model, model.encode_image, pixels, visual)
    text = _tower(model, model.encode_text, tokens, whole - visual)
    return Architecture(image, text, whole, largest, int(settings["embed_dim"]), names)


def _tower(model: nn.Module, encode: Any, item: Any, parameters: int) -> Tower:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, live_bytes() as forward:
        encode(item)
    with live_bytes() as kept:
        result = encode(item)  # holds its graph, and with it what a backward pass needs
        saved = kept.now
        del result
    return Tower(parameters, counter.get_total_flops() / 1e9, forward.most, saved)


def live_bytes() -> Any:
    """Return a mode that counts the bytes of tensors made in its body: ``now``, and the most at a time, ``most``."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.now = self.most = 0
            self._known: set[int] = set()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._local_scalar_dense.default:  # "is nothing masked?", asked of tensors without values
                return True if args[0].dtype == torch.bool else 0
            made = function(*args, **(kwargs or {}))
            old = {id(storage) for storage in map(_storage, tree_leaves((args, kwargs))) if storage is not None}
            for storage in map(_storage, tree_leaves(made)):
                if storage is not None and id(storage) not in old and id(storage) not in self._known:
                    self._known.add(id(storage))
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
            self.most = max(self.most, self.now)
            return made

        def _gone(self, identity: int, size: int) -> None:
            self._known.discard(identity)
            self.now -= size

    return _Live()


def _storage(value: Any) -> Any:
    import torch

    return value.untyped_storage() if isinstance(value, torch.Tensor) else None
