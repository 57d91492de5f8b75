"""The configuration of contrastive training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fgray.config.places import Input, Place
from fgray.config.schema import BenchmarkConfig, Count, DataConfig, Dtype, ModelConfig, Section, StoredJob, bare_names


class LossConfig(Section):
    """One term of the loss by name, with its own options; a bare name is short for ``{name: NAME}``."""

    model_config = ConfigDict(extra="allow", frozen=True)  # a loss validates its own options

    name: str = Field(description="see fgray list losses")
    weight: float = Field(1.0, description="factor of the term")
    warmup_steps: int = Field(0, ge=0, description="steps over which the factor rises linearly from 0")

    @property
    def options(self) -> dict[str, Any]:
        """The loss' own options."""
        return dict(self.model_extra or {})


class RegionSource(Section):
    """Regions of a source's images, with captions."""

    boxes: Input = Field(description="COCO's instances or proposals (JSON), or Parquet with columns image, x, y, w, h (pixels) and text")
    captions: Input | None = Field(None, description="FineCLIP's region captions (JSON); null: the Parquet file's own, or the template")
    template: str | None = Field(
        "a photo of a {}", description="caption of a COCO box, with its category's name in place of {}; null: boxes without captions"
    )


class TrainSource(Section):
    """Image-text pairs to train on, with their hard negatives and regions."""

    pairs: BenchmarkConfig = Field(description="image-text pairs: a benchmark whose right answers are the pairs, or {name: file, root: …}")
    negatives: list[Annotated[str, Place(parts=("negatives.parquet",))]] = Field(
        default_factory=list, description="run folders or negatives.parquet of mine and text_negatives jobs"
    )
    cases: bool = Field(False, description="the wrong candidates of the benchmark's cases are hard negatives, too (SPEC-style sets)")
    regions: RegionSource | None = Field(None, description="regions of the images, for losses that read them; null: none")
    share: float = Field(1.0, gt=0, description="share of every batch, relative to the other sources")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "pairs")


class NegativesConfig(Section):
    """Which hard negatives a sample brings."""

    texts: int = Field(0, ge=0, description="negative texts per sample")
    text_types: list[str] = Field(
        default_factory=list,
        description="types of negative texts, one column each (CE-CLIP: relation, adjective, noun, verb); empty: any type in any column",
    )
    images: int = Field(0, ge=0, description="negative images per sample")
    image_pairs: bool = Field(False, description="a negative image joins the batch with its own caption and negatives (NegCLIP)")

    @model_validator(mode="after")
    def _columns(self) -> NegativesConfig:
        if self.text_types and len(self.text_types) != self.texts:
            raise ValueError(f"texts is {self.texts}, but text_types names {len(self.text_types)} columns")
        return self


class RegionsConfig(Section):
    """How many regions of its image a pair brings, and how picture and regions are seen (FineCLIP, CLIPSelf).

    Boxes of less than 8 x 8 or more than 1024 x 1024 px of the original picture are left out.
    """

    most: int = Field(20, ge=1, description="most regions of an image; where there are more, so many are drawn, anew in every epoch")
    take_then_filter: bool = Field(False, description="as FineCLIP's code: so many are drawn first, and those of no usable size dropped")
    image_size: int | None = Field(None, ge=16, description="side of the picture that dense features come from, px; null: the model's own")
    resize: Literal["squash", "letterbox"] = Field("squash", description="how pictures and crops become square: squash, or letterbox")
    enlarge: float = Field(1.5, ge=1, description="a crop is its box enlarged so many times about its centre; crops have the model's size")
    teacher: Literal["live", "stop_gradient", "ema", "frozen"] = Field(
        "live",
        description="who embeds the crops: the model itself, with gradient (FineCLIP) or without; its moving average (optimizer.ema); "
        "the model as it was before training (CLIPSelf)",
    )


class OptimizerConfig(Section):
    """AdamW with warm-up and cosine decay, or plain SGD."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="adamw, or sgd without momentum")
    lr: float = Field(1e-5, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's moments")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(0.1, ge=0, description="of matrices; gains, biases, embeddings of one dimension and logit_scale have none")
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after warm-up")
    clip_grad_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: no clipping")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of an exponential moving average of the weights; null: none")


class SelectionConfig(Section):
    """Evaluation during training; what is evaluated here is marked `selection` and cannot stand in a verdict."""

    benchmarks: list[BenchmarkConfig] = Field(min_length=1, description="evaluated at every `every_steps`")
    metric: str = Field(description="name in metrics.json that picks the best checkpoint; larger is better")
    every_steps: int = Field(ge=1, description="steps between evaluations")
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations without a better one; null: never")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "benchmarks")


class CheckpointsConfig(Section):
    """When checkpoints are written and how many stay."""

    every_steps: int = Field(500, ge=1, description="steps between checkpoints; the last step always has one")
    keep: int = Field(2, ge=1, description="checkpoints that stay, the newest ones (and the best, where there is a selection)")


class TrainCompute(Section):
    """Where and how the steps are computed."""

    runner: Literal["ray", "serial"] = Field("ray", description="ray: Ray Train; serial: one worker in this process, no Ray")
    workers: Count = Field(1, description="data-parallel workers; each takes an equal part of the global batch")
    min_workers: Count | None = Field(None, description="go on with fewer workers, down to this many, when nodes are lost; null: wait")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is a GPU, else cpu")
    threads: int = Field(1, ge=1, description="threads of each worker on a CPU")
    precision: Dtype = Field("fp32", description="arithmetic of forward and backward; weights and moments are kept in fp32")
    zero: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    micro_batch: Count | None = Field(None, description="samples of one forward pass per worker; null: the worker's whole part")
    accumulation: Literal["cached", "micro_batch"] = Field(
        "cached", description="cached: the loss sees the full batch (GradCache); micro_batch: each sees its own negatives only"
    )
    activation_checkpointing: bool = Field(False, description="compute the towers' activations again in the backward pass")
    keep_frozen: bool = Field(
        False, description="keep in memory what frozen towers compute of each picture and text before their heads; needs freeze"
    )
    max_failures: int = Field(3, ge=0, description="worker failures that the run survives; preemptions do not count")


class Training(Section):
    """What is trained on, and how; a job and every arm of a loop say it."""

    data: DataConfig = Field(default_factory=DataConfig, description="where the data lies")
    sources: list[TrainSource] = Field(min_length=1, description="what is trained on; an epoch is one pass over the first")
    negatives: NegativesConfig = Field(default_factory=NegativesConfig, description="hard negatives of a sample")
    regions: RegionsConfig | None = Field(None, description="regions of images, for losses that read them; null: none")
    losses: list[LossConfig] = Field(
        default_factory=lambda: [LossConfig(name="clip")], min_length=1, description="terms of the loss; they add up"
    )
    gather: Literal["with_grad", "without_grad", "local"] = Field(
        "with_grad",
        description="features of other workers: with gradient (exact), without, or with gradient and only local rows of the logits",
    )
    batch_size: int = Field(256, ge=1, description="samples of a step, over all workers")
    steps: int | None = Field(None, ge=1, description="length of the training; or give epochs")
    epochs: float | None = Field(None, gt=0, description="length of the training in passes over the first source")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="how weights move")
    freeze: list[str] = Field(default_factory=list, description="patterns of parameter names that stay as they are, e.g. visual.*")
    dropout: bool = Field(False, description="keep the architecture's dropout; default: none")
    augment: Literal["none", "random_resized_crop"] = Field("none", description="none: the model's own preprocessing, as in evaluation")
    checkpoints: CheckpointsConfig = Field(default_factory=CheckpointsConfig, description="checkpoints to resume from")
    selection: SelectionConfig | None = Field(None, description="evaluation during training; null: none")
    disjoint_from: list[BenchmarkConfig] = Field(
        default_factory=list, description="evaluation sets of which no image may be trained on; an overlap is refused"
    )
    tracking: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list, description="besides log.jsonl")
    compute: TrainCompute = Field(default_factory=TrainCompute, description="workers, precision, memory")
    seed: int = Field(0, ge=0, description="seed of the order of samples, the choice of negatives and augmentation")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "losses", "disjoint_from")

    @model_validator(mode="after")
    def _length(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.compute.keep_frozen and (self.dropout or self.augment != "none" or self.compute.zero == 3):
            raise ValueError("compute.keep_frozen goes with neither dropout, augment nor zero 3")
        if (self.regions is None) != all(source.regions is None for source in self.sources):
            raise ValueError("regions are given in two places: what and how in the section regions, and which ones in a source's regions")
        if self.regions is not None and self.regions.teacher == "ema" and self.optimizer.ema is None:
            raise ValueError("regions.teacher ema needs optimizer.ema")
        if self.regions is not None and self.regions.resize == "letterbox" and self.augment != "none":
            raise ValueError("augment goes with regions.resize squash only")
        parts = self.compute.workers * (self.compute.micro_batch or 1)
        if self.batch_size % parts:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of workers x micro_batch = {parts}")
        fewest = self.compute.min_workers or self.compute.workers
        if fewest > self.compute.workers:
            raise ValueError(f"compute.min_workers {fewest} is more than compute.workers {self.compute.workers}")
        for count in range(fewest, self.compute.workers):
            if self.batch_size % count:  # found now, not in the night when a node is lost
                raise ValueError(f"batch_size {self.batch_size} does not divide by {count} workers, which compute.min_workers allows")
        return self


class TrainClipJob(StoredJob, Training):
    """Fine-tune a dual encoder on pairs and hard negatives."""

    job: Literal["train_clip"] = Field(description="which kind of job: train_clip")
    model: ModelConfig = Field(description="what is fine-tuned: an open_clip model")
