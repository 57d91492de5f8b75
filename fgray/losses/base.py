"""What a loss is, and the registry of losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from fgray.errors import ConfigError, did_you_mean
from fgray.losses.features import REGIONS, Features, Inputs
from fgray.registry import Registry


class Options(BaseModel):
    """Options of a loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Loss(nn.Module, ABC):
    """A scalar function of features: the mean over `features.rows` of what each row adds.

    Because it is a mean over rows, and every rank has as many rows, the mean over ranks of the losses of their own rows is the loss
    of the whole batch. Buffers are state that goes into checkpoints; it changes in `update` alone, once a step after the backward
    pass, so that a second forward pass of the same step sees what the first one saw.

    Args:
        inputs: what the run brings besides pairs.
        options: fields of `Options`, the loss' own.

    Raises:
        ConfigError: an option is unknown or wrong, or the run does not bring what the loss needs.
    """

    Options: ClassVar[type[Options]] = Options
    name: ClassVar[str]
    model_fields: ClassVar[Mapping[str, Any]] = {}  # the options, as `registry.options_of` lists them

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.model_fields = cls.Options.model_fields

    def __init__(self, inputs: Inputs = Inputs(), **options: Any) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.options: Any = _validated(self.name, self.Options, options)
        self.inputs = inputs
        for missing in sorted(self.needs - inputs.names):
            raise ConfigError(f"loss '{self.name}' needs {_WORDS[missing]}, which this run does not bring", fix=_FIXES[missing])

    @property
    def needs(self) -> frozenset[str]:
        """Return the optional fields of `Features` that it reads."""
        return frozenset()

    @property
    def weights(self) -> dict[str, float]:
        """Return the factor of each part."""
        return {self.name: 1.0}

    @property
    def of_own_rows(self) -> frozenset[str]:
        """Return the parts that read this rank's own features only, so that the way of gathering does not change their weight."""
        return frozenset()

    @abstractmethod
    def parts(self, features: Features) -> dict[str, Tensor]:
        """Return the parts of the loss before their factors, scalars [], under the names of `weights`."""

    def evaluate(self, features: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts before their factors, scalars [] of at least float32.

        Raises:
            ConfigError: the features lack what the loss needs.
        """
        for missing in sorted(self.needs):
            if getattr(features, missing) is None:
                raise ConfigError(f"loss '{self.name}' needs {_WORDS[missing]}, which the batch does not bring", fix=_FIXES[missing])
        with full_precision(features) as features:
            parts = self.parts(features)
            total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return total, parts

    def forward(self, features: Features) -> Tensor:
        """Return the loss of the features, a scalar []."""
        return self.evaluate(features)[0]

    def update(self, features: Features) -> None:
        """Carry state to the next step.

        Args:
            features: those of the step that was just taken, of the whole batch (gathered): then every rank computes the same
                state from the same numbers. `rows` is not read.
        """


LOSSES: Registry[type[Loss]] = Registry(
    "loss",
    {
        "clip": "fgray.losses.clip:Clip",
        "siglip": "fgray.losses.siglip:SigLip",
        "spec": "fgray.losses.spec:Spec",
        "negclip": "fgray.losses.negclip:NegClip",
        "ce_clip": "fgray.losses.ce_clip:CeClip",
        "fineclip": "fgray.losses.fineclip:FineClip",
    },
)

_WORDS = {
    "negative_texts": "negative texts",
    "negative_images": "negative images",
    "bias": "a logit bias",
    "roi": "regions",
    "crop": "crops of regions",
    "region_text": "captions of regions",
}
_FIXES = {
    "negative_texts": "set negatives.texts and give the sources negatives",
    "negative_images": "set negatives.images and give the sources negatives",
    "bias": "take a model that has one (SigLIP)",
    **dict.fromkeys(REGIONS, "add the section regions, and regions to the sources"),
}


@contextmanager
def full_precision(features: Features) -> Iterator[Features]:
    """Give the features in at least float32, with autocast off: losses are not computed in 16 bits."""
    with torch.autocast(features.image.device.type, enabled=False):
        yield features.full_precision()


def _validated(name: str, kind: type[BaseModel], options: dict[str, Any]) -> BaseModel:
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            what = f"loss '{name}' has no option '{place}'"
            raise ConfigError(what, where="losses", fix=did_you_mean(place, kind.model_fields)) from None
        what = f"wrong option {place} for {name} ({first['msg']})" if place else f"wrong options for {name} ({first['msg']})"
        raise ConfigError(what, where="losses", fix=f"see fgray list losses {name}") from None
