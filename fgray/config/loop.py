"""The configuration of the loop: diagnose, mine, train, prove."""

from __future__ import annotations

from pydantic import Field

from fgray.config.schema import Section


class GateConfig(Section):
    """A metric that training must not harm."""

    metric: str = Field(description="name in metrics.json, or a pattern of names (zero_shot/*)")
    margin: float = Field(0.01, gt=0, lt=1, description="loss that is tolerated; 0.01 is one point")
