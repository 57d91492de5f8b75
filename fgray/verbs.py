"""The public verbs: what `import fgray` offers, and what the command line calls. Heavy modules are imported when used."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fgray.config import LoadedConfig, load_config
from fgray.config.loop import LoopJob
from fgray.config.schema import DistractorsJob, EvalJob, Job, MineJob, ModelConfig, TextNegativesJob, TinyModel
from fgray.config.train import TrainClipJob
from fgray.errors import ConfigError
from fgray.launch.clusters.verbs import cluster_down, cluster_manifest, cluster_status, cluster_up, cluster_validate
from fgray.launch.local import plan_job, run_local
from fgray.launch.remote.jobs import RemoteJob, list_jobs, remote_job
from fgray.launch.submit import resume, submit
from fgray.listings import list_benchmarks, list_filters, list_generators, list_losses, list_metrics, list_models

if TYPE_CHECKING:
    from fgray.benchmarks.base import LoadedBenchmark
    from fgray.data.shards import BuildSummary
    from fgray.engine.gc import Collected
    from fgray.evaluation import RunResult
    from fgray.evaluation.compare import Comparison
    from fgray.evaluation.score import TextScore
    from fgray.launch.doctor import Finding
    from fgray.launch.plan.job_plan import JobPlan
    from fgray.loop.run import LoopResult
    from fgray.mining.distractors import DistractorsResult
    from fgray.mining.run import MineResult
    from fgray.models.convert import Converted
    from fgray.models.trained import TrainedCard
    from fgray.text_negatives.run import TextNegativesResult
    from fgray.training.run import TrainResult

__all__ = [
    "RemoteJob",
    "build_shards",
    "cluster_down",
    "cluster_manifest",
    "cluster_status",
    "cluster_up",
    "cluster_validate",
    "compare",
    "convert",
    "doctor",
    "evaluate",
    "explore",
    "export",
    "fetch_benchmark",
    "gc_store",
    "import_benchmark",
    "list_benchmarks",
    "list_filters",
    "list_generators",
    "list_jobs",
    "list_losses",
    "list_metrics",
    "list_models",
    "load_config",
    "loop",
    "make_text_negatives",
    "mine",
    "mine_distractors",
    "plan",
    "remote_job",
    "report",
    "resume",
    "schema",
    "score",
    "submit",
    "train",
    "verify_shards",
]


def plan(config: LoadedConfig) -> JobPlan:
    """Return what a job will do and take, where its ``cluster`` says; ``.table()`` shows it. No model is loaded and nothing is embedded.

    The index of a plain image folder and the images of a composed benchmark are kept in the store, where the run finds them.

    Raises:
        ConfigError: its shape would hang, spill or not fit.
        FgrayError: whatever is wrong with configuration, data, model, cluster file or storage.
    """
    return plan_job(config)


def evaluate(config: LoadedConfig) -> RunResult:
    """Run an evaluation in this process, or finish one that was interrupted.

    Raises:
        ConfigError: the job is of another kind; so with the verbs below.
        FgrayError: whatever stops it; so with the verbs below.
    """
    result: RunResult = _run(config, EvalJob, "is no evaluation")
    return result


def mine(config: LoadedConfig) -> MineResult:
    """Mine hard negatives in this process, or finish a run that was interrupted."""
    result: MineResult = _run(config, MineJob, "mines nothing")
    return result


def make_text_negatives(config: LoadedConfig) -> TextNegativesResult:
    """Make negative captions in this process, or finish a run that was interrupted."""
    result: TextNegativesResult = _run(config, TextNegativesJob, "makes no text negatives")
    return result


def mine_distractors(config: LoadedConfig) -> DistractorsResult:
    """Mine the wrong options of multiple-choice questions in this process, or finish a run that was interrupted."""
    result: DistractorsResult = _run(config, DistractorsJob, "mines no distractors")
    return result


def train(config: LoadedConfig) -> TrainResult:
    """Fine-tune a dual encoder from this process, or finish a run that was interrupted."""
    result: TrainResult = _run(config, TrainClipJob, "trains nothing")
    return result


def loop(config: LoadedConfig) -> LoopResult:
    """Diagnose, mine, train and prove from this process, or finish a loop that was interrupted."""
    result: LoopResult = _run(config, LoopJob, "is no loop")
    return result


def _run(config: LoadedConfig, kind: type[Job], refusal: str) -> Any:
    if not isinstance(config.job, kind):
        raise ConfigError(f"a {config.job.job} job {refusal}", where=config.path, fix="run it with submit")
    return run_local(config)


def report(run: str) -> str:
    """Write a run's report.html again from its files and return its address.

    Args:
        run: the run folder; the images are read from where the run read them.

    Raises:
        FgrayError: the folder is no finished run. Images that are gone leave a gap in the gallery.
    """
    from fgray.launch.report import report_again

    return report_again(run)


def compare(run_a: str, run_b: str, output: str | None = None) -> Comparison:
    """Test whether two runs on the same cases differ, with the level, resamples and seed of run A.

    Args:
        run_a: a run folder.
        run_b: another one.
        output: where to write an HTML page of the comparison; None writes none.

    Raises:
        DataError: the runs have no metric, or not the same cases, in common, or intervals of different levels.
    """
    from fgray.evaluation.compare import compare_runs
    from fgray.launch.report import ImagesOfRun
    from fgray.report.compare import write_compare
    from fgray.runs import RunFolder

    result = compare_runs(run_a, run_b)
    if output is not None:
        write_compare(result, ImagesOfRun(RunFolder(run_a)).read, output, RunFolder(run_a).regions())
    return result


def explore(data: str | None, benchmark: str, output: str, options: Mapping[str, Any] | None = None) -> str:
    """Write a gallery of a benchmark's cases, images, texts and labels; no model is needed.

    Args:
        data: the benchmark's folder or s3:// prefix; None for one that makes its own data.
        benchmark: its name.
        output: the HTML file to write.
        options: the benchmark's own options.

    Returns:
        the address of the page.

    Raises:
        FgrayError: the data is not in the benchmark's layout.
    """
    from fgray.evaluation.plan import load_benchmarks
    from fgray.report.explore import write_explore

    section = {"name": benchmark, "root": data, **(options or {})}
    with tempfile.TemporaryDirectory(prefix="fgray-explore-") as cache:
        job = EvalJob(job="eval", name="explore", model=TinyModel(kind="tiny"), benchmarks=[section], output=cache)
        (loaded,) = load_benchmarks(job).values()
        return write_explore(loaded, lambda _, key: _read_image(loaded, key), output)


def export(
    run: str, destination: str, step: int | None = None, alpha: float | None = None, base: ModelConfig | None = None, layout: str = "fgray"
) -> TrainedCard:
    """Write a model folder from a training run's checkpoint; plain open_clip loads it, and so does ``kind: trained``.

    Args:
        run: the run folder of a train_clip job, finished or not.
        destination: a new folder or s3:// prefix; for another code base's layout a new ``.pt`` file.
        step: which checkpoint; None: the best one of the run's selection, else the newest.
        alpha: share of the trained weights, from 0 (the model that the run started from) to 1 (WiSE-FT); None: 1.
        base: the model that the run started from, where it lies elsewhere now.
        layout: "fgray"; or, for another code base, "eva-clip" (F-ViT, CLIPSelf, FineCLIP) or "openai-clip" (CAT-Seg).

    Raises:
        FgrayError: the run has no such checkpoint, or the model that it started from is not there any more.
    """
    from fgray.launch.report import job_of
    from fgray.runs import RunFolder
    from fgray.training.export import export_run

    job = job_of(RunFolder(run))
    if not isinstance(job, TrainClipJob):
        raise ConfigError(f"a {job.job} job trains nothing", where=run, fix="name the folder of a train_clip run")
    return export_run(RunFolder(run), job, destination, step, alpha, base, layout)


def convert(source: str, destination: str, trust: bool = False) -> Converted:
    """Write the weights of a checkpoint as safetensors, which hold nothing but tensors.

    Args:
        source: path or s3:// address of a .pt, .pth, .bin or .ckpt file.
        destination: a new .safetensors file.
        trust: run the code that the file brings, in a process of its own but with your rights; plain tensors need no trust.

    Raises:
        FgrayError: the file brings code and is not trusted, or holds no state dict.
    """
    from fgray.models.convert import convert_checkpoint

    return convert_checkpoint(source, destination, trust)


def score(image: str, texts: Sequence[str], model: ModelConfig) -> list[TextScore]:
    """Return the cosine and the probability of every text for one image.

    Raises:
        FgrayError: the image cannot be read, or the model cannot be loaded.
    """
    from fgray.evaluation.score import score_image

    return score_image(model, image, texts)


def build_shards(
    source: str, destination: str, format: Literal["tar", "parquet"] = "tar", shard_bytes: int = 256 << 20, images: str | None = None
) -> BuildSummary:
    """Pack images into shards with a manifest and a byte-range index.

    Args:
        source: a folder, a COCO JSON file, WebDataset tars or Parquet files.
        destination: new folder or s3:// prefix.
        format: "tar" (WebDataset) or "parquet".
        shard_bytes: size of a shard.
        images: folder of the images that a COCO file lists; None: the folder of the file itself.

    Raises:
        DataError: no images, two with the same key, or `images` beside a source that is no COCO file.
    """
    from fgray.data.importers import open_source
    from fgray.data.shards import build_shards as build

    return build(open_source(source, images), destination, format, shard_bytes)


def verify_shards(destination: str) -> list[str]:
    """Read every image of a packed folder, compare it with the index and return one line per finding (none: all is well).

    Raises:
        DataError: the folder has no manifest or index.
    """
    from fgray.data.shards import verify_shards as verify

    return verify(destination)


def import_benchmark(benchmark: str, source: str, destination: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Pack a benchmark in its official layout, so that later runs read shards.

    Raises:
        FgrayError: the source is not in the benchmark's layout.
    """
    from fgray.benchmarks.packed import import_benchmark as pack

    return pack(benchmark, source, destination, options)


def fetch_benchmark(benchmark: str, destination: str, mirror: str | None = None) -> list[dict[str, object]]:
    """Download a benchmark's official files, check them and say what was done on standard error.

    Args:
        benchmark: its name.
        destination: local folder; what is there already is not downloaded again.
        mirror: scheme and host that replace the official ones.

    Raises:
        FgrayError: the server cannot be reached, or a file differs from the official one.
    """
    from fgray.benchmarks.fetch import fetch_benchmark as fetch

    return fetch(benchmark, destination, base_url=mirror, report=lambda line: print(line, file=sys.stderr))


def schema() -> dict[str, Any]:
    """Return the JSON schema of configuration files, for completion and help in editors."""
    from fgray.config.jobs import json_schema

    return json_schema()


def gc_store(store: str, runs: Sequence[str], dry_run: bool = False) -> Collected:
    """Retire from a result store what none of the given runs needs.

    Args:
        store: the store's folder or s3:// prefix.
        runs: run folders that stay.
        dry_run: only say what would go.

    Raises:
        NotFound: a run has no list of what it needs, because it has not started.
    """
    from fgray.engine.gc import collect

    return collect(store, runs, dry_run)


def doctor() -> list[Finding]:
    """Look at Python, packages, devices, disk, S3 settings and demo weights; secrets are never shown."""
    from fgray.launch.doctor import examine

    return examine()


def _read_image(loaded: LoadedBenchmark, key: str) -> bytes:
    return loaded.images.read(loaded.images.locate([key]))[0]
