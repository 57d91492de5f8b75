"""The terms of a run's loss added up, with their weights and warm-ups.

With weights w_n and warm-ups of u_n steps, the loss of step t (from 0) is sum_n w_n(t) L_n with w_n(t) = w_n min(1, t / u_n).
What the optimizer sees of a term depends on the gathering, too (derived in `fgray.losses.gather`): with_grad and local are exact,
without_grad gives the towers w_n(t) / W on W ranks, while the logit scale and bias keep w_n(t). `effective_weights` returns both,
`weights_line` is what the log says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgray.config.train import LossConfig
from fgray.errors import ConfigError, did_you_mean
from fgray.losses.base import LOSSES, Loss
from fgray.losses.features import Features, Inputs
from fgray.losses.gather import Mode


class CombinedLoss(nn.Module):
    """Sum of losses; its state (`state_dict`) is that of its terms.

    Args:
        configs: the terms, of different names.
        inputs: what the run brings besides pairs.

    Raises:
        ConfigError: a name is unknown or stands twice, an option is wrong, or the run does not bring what a loss needs.
    """

    def __init__(self, configs: Sequence[LossConfig], inputs: Inputs = Inputs()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.configs = {config.name: config for config in configs}
        self.terms: nn.ModuleDict = nn.ModuleDict()
        for number, config in enumerate(configs):
            if config.name in self.terms:
                raise ConfigError(
                    f"loss '{config.name}' stands twice", where=f"losses.{number}", fix="keep one of them and add the weights"
                )
            if config.name not in LOSSES.names():
                what = f"no loss is called '{config.name}'"
                raise ConfigError(what, where=f"losses.{number}", fix=did_you_mean(config.name, LOSSES.names()))
            self.terms[config.name] = LOSSES.get(config.name)(inputs, **config.options)

    def losses(self) -> dict[str, Loss]:
        """Return the terms by name."""
        return dict(self.terms.items())  # type: ignore[arg-type]

    @property
    def needs(self) -> frozenset[str]:
        """Return the optional fields of `Features` that some term reads."""
        return frozenset().union(*(loss.needs for loss in self.losses().values()))

    def weight(self, name: str, step: int) -> float:
        """Return the weight of a term at a step (from 0)."""
        config = self.configs[name]
        return config.weight * (min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0)

    def forward(self, features: Features, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its terms.

        Args:
            features: gathered; a mean over `features.rows`.
            step: number of the step, from 0.

        Returns:
            The weighted sum, a scalar [], and detached scalars [] by name before their weights: ``ce_clip`` for a term, and
            ``ce_clip/imc`` for a part of one that has several. In local mode they are means over this rank's rows.
        """
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for name, loss in self.losses().items():
            value, parts = loss.evaluate(features)
            weighted = self.weight(name, step) * value
            total = weighted if total is None else total + weighted
            values[name] = value.detach()
            if len(parts) > 1:
                values.update({f"{name}/{part}": x.detach() for part, x in parts.items()})
        assert total is not None
        return total, values

    @torch.no_grad()
    def update(self, features: Features) -> None:
        """Carry the terms' state to the next step; once a step, after the backward pass, with the gathered features of the batch."""
        for loss in self.losses().values():
            loss.update(features)

    def effective_weights(self, step: int, gather: Mode, world: int) -> dict[str, dict[str, float]]:
        """Return what multiplies the gradient of each term in the mean over ranks.

        Args:
            step: number of the step, from 0.
            gather: how features are gathered.
            world: ranks.

        Returns:
            Name of a term or part -> {"towers": factor of the gradient through the features, "scale": that of the logit scale and
            bias}; 1 stands for the gradient of the unweighted term on one process with the whole batch.
        """
        share = 1 / world if gather == "without_grad" else 1.0
        found: dict[str, dict[str, float]] = {}
        for name, loss in self.losses().items():
            parts = loss.weights
            for part, factor in parts.items():
                weight = self.weight(name, step) * factor
                towers = weight if part in loss.of_own_rows else weight * share
                found[f"{name}/{part}" if len(parts) > 1 else name] = {"towers": towers, "scale": weight}
        return found

    def weights_line(self, step: int, gather: Mode, world: int) -> str:
        """Return the effective weights as one line for people: ``gather local on 2 ranks, weights: clip 1, ce_clip/imc 0.2``."""
        weights = self.effective_weights(step, gather, world)
        towers = ", ".join(f"{name} {weight['towers']:g}" for name, weight in weights.items())
        line = f"gather {gather} on {world} rank{'s' if world > 1 else ''}, weights: {towers}"
        if gather == "without_grad" and world > 1:
            keepers = ["the logit scale", *(f"{name}/{part}" for name, loss in self.losses().items() for part in sorted(loss.of_own_rows))]
            line += f" (1/{world} of the nominal ones, which {' and '.join(keepers)} keep{'s' if len(keepers) == 1 else ''})"
        return line
