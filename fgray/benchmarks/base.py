"""What a benchmark is: its cases, its metrics, its facts. It never calls a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fgray.config.schema import BenchmarkConfig
from fgray.data.cases import CaseSet
from fgray.data.index import ImageIndex
from fgray.errors import ConfigError
from fgray.metrics.spec import AnyMetric, Ties
from fgray.registry import Registry


@dataclass(frozen=True)
class Published:
    """Numbers of one model from a paper or repository, for comparison.

    Attributes:
        model: as the source names it, with what pins it (activation, weights).
        source: where the numbers stand, with the provenance mark of the facts ([repo], [3p], [mem] …).
        values: metric name (as in metrics.json) -> value between 0 and 1.
    """

    model: str
    source: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkInfo:
    """The facts that a report shows beside a benchmark's numbers.

    Attributes:
        name: what its metric names begin with: the registry name, or NAME/DATASET where one benchmark reads several data sets.
        title: as its authors call it.
        summary: one line on what it measures.
        url, licence, bibtex: where it comes from, under which terms, how to cite it.
        ties: tie policy of the harness that produced the published table.
        official_counts: subset/task -> number of cases of the official release.
        official_hashes: file -> sha256 of the official release, where known.
        published: shown only when counts (and known hashes) are the official ones.
        primary: metrics that `compare` tests with Holm's correction when a run names none.
    """

    name: str
    title: str
    summary: str
    url: str
    licence: str
    bibtex: str
    ties: Ties
    official_counts: Mapping[str, int] = field(default_factory=dict)
    official_hashes: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[Published] = ()
    primary: Sequence[str] = ()


@dataclass
class LoadedBenchmark:
    """A benchmark's data, ready to be evaluated.

    Attributes:
        info: its facts.
        cases: what is asked.
        images: where the images lie (every image reference of the cases is a key of it).
        metrics: what is reported, in the order of the report.
        official: counts and hashes are those of the official release.
        title: title for this data ("SPEC-style, not SPEC"); default info.title.
        controls: extra values computed without the model, e.g. a pixel oracle: metric name -> sample-free metric
            entry {"value", "count", "correct", "chance", "note"}; shown beside the model's numbers.
        shuffled_control: also report every accuracy with labels drawn at random, which must land at chance.
        control_subsets: subsets whose cases ask something easier, to show that the images can be read; mining takes no pairs from them.
        notes: one-line remarks for the report (counted skips and the like).
    """

    info: BenchmarkInfo
    cases: CaseSet
    images: ImageIndex
    metrics: list[AnyMetric]
    official: bool = False
    title: str | None = None
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    shuffled_control: bool = False
    control_subsets: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


class Benchmark(Protocol):
    """Reads one benchmark's data; options are its constructor's keyword arguments."""

    info: BenchmarkInfo

    def load(self, root: str | None, cache: str) -> LoadedBenchmark:
        """Read cases and image index from the official layout (or a folder packed by `fgray import`).

        Args:
            root: folder or s3:// prefix of the data; None only for benchmarks that make their own.
            cache: folder or prefix where an image index or composed data may be kept between runs.

        Raises:
            DataError: the layout is not the benchmark's, an image is missing, a label is out of range.
        """
        ...


BENCHMARKS: Registry[type[Benchmark]] = Registry(
    "benchmark",
    {
        "box_classification": "fgray.benchmarks.box_classification:BoxClassification",
        "drawn": "fgray.benchmarks.drawn:Drawn",
        "edited_captions": "fgray.benchmarks.edited_captions:EditedCaptions",
        "spec": "fgray.benchmarks.spec:Spec",
        "spec_style": "fgray.benchmarks.spec_style:SpecStyle",
        "sugarcrepe": "fgray.benchmarks.sugarcrepe:SugarCrepe",
        "retrieval": "fgray.benchmarks.retrieval:Retrieval",
        "zero_shot": "fgray.benchmarks.zero_shot:ZeroShot",
    },
)


def open_benchmark(config: BenchmarkConfig, root: str | None, cache: str) -> LoadedBenchmark:
    """Load the benchmark that a section names.

    Args:
        config: name, root and options.
        root: where its data lies if the section does not say.
        cache: see `Benchmark.load`.

    Raises:
        ConfigError: unknown benchmark or option.
        DataError: what the benchmark finds wrong with its data.
    """
    kind = BENCHMARKS.get(config.name)
    try:
        benchmark = kind(**config.options)
    except TypeError as error:
        raise ConfigError(
            f"wrong option for {config.name} ({error})", where="benchmarks", fix=f"see fgray list benchmarks {config.name}"
        ) from error
    return benchmark.load(config.root or root, cache)
