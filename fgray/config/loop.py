"""The configuration of the loop: diagnose, mine, train, prove."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fgray.config.schema import BenchmarkConfig, ComputeConfig, DataConfig, Job, Mining, ModelConfig, Section, StatsConfig, bare_names
from fgray.config.train import Training

Share = Annotated[float, Field(gt=0, lt=1)]
BASE = "base"  # what arms start from, and are compared with
MINED = "mined"  # in an arm's negatives: the file of the loop's own mining


class GateConfig(Section):
    """A metric that training must not harm."""

    metric: str = Field(description="name in metrics.json, or a pattern of names (zero_shot/*)")
    margin: float = Field(0.01, gt=0, lt=1, description="loss that is tolerated; 0.01 is one point")


class WiseFtConfig(Section):
    """Weights between before and after training, tried where a gate fails (WiSE-FT)."""

    alphas: list[Share] = Field([0.2, 0.4, 0.6, 0.8], min_length=1, description="shares of the trained weights; 0 and 1 are tried, too")
    benchmarks: list[BenchmarkConfig] = Field(min_length=1, description="what the share is chosen on; never what the verdict is about")
    target: str = Field(description="metric that shall be large")
    keep: str = Field(description="metric that must not fall by more than `margin`")
    margin: float = Field(0.01, gt=0, lt=1, description="loss of `keep` that is tolerated")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "benchmarks")


class LoopJob(Job):
    """Diagnose a model, mine negatives with it, train arms from it, and prove what each arm changed."""

    job: Literal["loop"] = Field(description="which kind of job: loop")
    model: ModelConfig = Field(description="what the loop starts from")
    base: Training | None = Field(None, description="training before the loop, where the model is a random one; null: none")
    mine: Mining | None = Field(None, description=f"negatives mined with the base model; arms name them as `{MINED}`")
    arms: dict[str, Training] = Field(min_length=1, description="trainings that start from the base, by name")
    subject: str = Field(description="the arm that the gates and the exit code are about; the others are its controls")
    data: DataConfig = Field(default_factory=DataConfig, description="where the data of the evaluation lies")
    benchmarks: list[BenchmarkConfig] = Field(min_length=1, description="what base and arms are compared on")
    primary: list[str] = Field(default_factory=list, description="corrected for multiple testing; default: each benchmark's own metrics")
    gates: list[GateConfig] = Field(default_factory=list, description="what must not get worse")
    wise_ft: WiseFtConfig | None = Field(None, description="where a gate of the subject fails: propose weights between base and subject")
    seeds: list[int] = Field([0], min_length=1, description="repeat everything for each seed; one seed speaks of its checkpoints only")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="of evaluation; mine and every arm have their own")
    stats: StatsConfig = Field(default_factory=StatsConfig, description="intervals")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "benchmarks")

    @model_validator(mode="after")
    def _consistent(self) -> LoopJob:
        if self.subject not in self.arms:
            raise ValueError(f"subject: no arm is called '{self.subject}'; there are {', '.join(self.arms)}")
        if self.mine is None and any(MINED in source.negatives for arm in self.arms.values() for source in arm.sources):
            raise ValueError(f"an arm names the negatives '{MINED}', but there is no section mine")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed stands twice")
        for name in self.arms:
            if name == BASE:
                raise ValueError(f"arms: '{BASE}' is what the arms start from; choose another name")
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"arms: '{name}' is no name for a folder; use letters, digits, - and _")
        for name, training in {BASE: self.base, **{f"arms.{name}": arm for name, arm in self.arms.items()}}.items():
            if training is not None and "seed" in training.model_fields_set:
                raise ValueError(f"{name}.seed: a loop trains with each of its seeds; name them in seeds")
        return self
