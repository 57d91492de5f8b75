"""The command line: Typer wiring only; every command calls the public verb of the same name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import fgray
from fgray import cli_jobs
from fgray import cli_output as show
from fgray.cli_cluster import app as cluster_app
from fgray.launch.entry import command_process

app = typer.Typer(
    name="fgray",
    help="Evaluate CLIP-like models on fine-grained benchmarks, and mine the negatives that teach them.\n\n"
    "\b\nFirst steps:\n"
    "  fgray submit configs/quickstart.yaml       evaluate the offline demo model\n"
    "  fgray plan configs/eval/spec.yaml          what a run will compute\n"
    "  fgray explore DATA --benchmark spec        look at a benchmark's cases\n"
    "  fgray submit configs/mine/quickstart.yaml  mine hard negatives for the demo\n"
    "  fgray COMMAND --help                       options and examples",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
shards = typer.Typer(help="Pack images into shards with a byte-range index, or check them.", no_args_is_help=True, rich_markup_mode=None)
listing = typer.Typer(help="List benchmarks, models, metrics, filters, generators or losses.", no_args_is_help=True, rich_markup_mode=None)
store = typer.Typer(help="Look after a result store.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(shards, name="shards")
app.add_typer(listing, name="list")
app.add_typer(store, name="store")
app.add_typer(cli_jobs.app)  # without a name: status, logs, stop, resume and jobs
app.add_typer(cluster_app, name="cluster")

Config = Annotated[str, typer.Argument(help="YAML file of the job, or its s3:// address.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override one value, read as YAML; list items by number. May be repeated."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="One of the benchmark's own options, read as YAML. May be repeated."),
]


def main() -> None:
    """Run the command line; a mistake that the user can mend is one line on standard error and exit status 1."""
    sys.path.append(str(Path.cwd()))  # so that `path: my_encoder:MyEncoder` finds a file beside where the command is typed
    with command_process():
        app()


@app.command()
def submit(
    config: Config,
    overrides: Overrides = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="URI", help="Run folder, in place of the file's.")] = None,
    cluster: Annotated[str | None, typer.Option(metavar="FILE|local", help="Where to run, in place of the file's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and plan, embed nothing; an image index and composed images stay in the store.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for a job on a cluster; `fgray logs -f` picks it up.")] = False,
) -> None:
    """Check, plan and run a job; the same command again resumes.

    On a cluster, the job goes on whatever becomes of this command, whose exit status is the job's own.

    \b
    Examples:
      fgray submit configs/quickstart.yaml
      fgray submit configs/quickstart.yaml --set benchmarks.0.cases=5 --output runs/small
      fgray submit configs/eval/spec.yaml --set 'model={kind: tiny}' --dry-run
      fgray submit configs/quickstart.yaml --cluster cluster/local-multinode.yaml
    """
    result = fgray.submit(config, overrides or (), output=output, cluster=cluster, dry_run=dry_run)
    if not isinstance(result, fgray.RemoteJob):
        show.result(result)
    elif detach:
        print(result.id)
    else:
        cli_jobs.follow(result)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    cluster: Annotated[str | None, typer.Option(metavar="FILE|local", help="Where it would run, in place of the file's.")] = None,
) -> None:
    """Show what a job will do and what it takes: units, limiting stage, memory, time, cost; a shape that would hang is refused.

    \b
    Examples:
      fgray plan configs/eval/sugarcrepe.yaml --set data.root=DATA
      fgray plan configs/eval/s3.yaml --cluster cluster/aws-l4-spot.yaml
    """
    show.result(fgray.submit(config, overrides or (), cluster=cluster, dry_run=True))


@app.command()
def report(run: Annotated[str, typer.Argument(help="A run folder.")]) -> None:
    """Write the report of a run again and show its metrics.

    \b
    Example:
      fgray report runs/quickstart
    """
    show.report(run, fgray.report(run))


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="A run folder.")],
    run_b: Annotated[str, typer.Argument(help="Another one, on the same cases.")],
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="HTML", help="Also write a page.")] = None,
) -> None:
    """Test whether two runs on the same cases differ.

    Paired by case; the primary metrics are corrected for their number (Holm).

    \b
    Example:
      fgray compare runs/base runs/finetuned --output runs/base-finetuned.html
    """
    show.comparison(fgray.compare(run_a, run_b, output), output)


@app.command()
def explore(
    data: Annotated[str | None, typer.Argument(help="The benchmark's folder or s3:// prefix.")] = None,
    benchmark: Annotated[str, typer.Option(metavar="NAME", help="A name in `fgray list benchmarks`.")] = "spec",
    options: Options = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="HTML", help="The page to write.")] = "explore.html",
) -> None:
    """Write a gallery of a benchmark's cases; needs no model.

    \b
    Examples:
      fgray explore --benchmark spec_style
      fgray explore DATA/flickr8k --benchmark retrieval --set dataset=flickr8k
    """
    print(fgray.explore(data, benchmark, output, show.options(options)))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The run folder of a train_clip job.")],
    destination: Annotated[str, typer.Argument(help="Folder or s3:// prefix to write; in other layouts a .pt file.")],
    step: Annotated[int | None, typer.Option(help="Checkpoint of this step; default: the best one, or the newest.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of the trained weights, 0 to 1, the rest from before (WiSE-FT).")] = None,
    base: Annotated[str | None, typer.Option(metavar="KIND|YAML", help="The model before training, where it has moved.")] = None,
    layout: Annotated[str, typer.Option(help="fgray, eva-clip (F-ViT, CLIPSelf, FineCLIP) or openai-clip (CAT-Seg).")] = "fgray",
) -> None:
    """Write a model folder from a training run; plain open_clip loads it, too.

    \b
    Examples:
      fgray export runs/train/quickstart models/quickstart
      fgray export runs/train/quickstart models/half --step 40 --alpha 0.5
      fgray export runs/train/fineclip fineclip_b16.pt --layout eva-clip
    """
    show.facts(fgray.export(run, destination, step, alpha, None if base is None else show.model(base, None), layout))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A .pt, .pth, .bin or .ckpt file: path or s3:// address.")],
    destination: Annotated[str, typer.Argument(help="The .safetensors file to write.")],
    trust: Annotated[bool, typer.Option("--trust", help="Run the code that the file brings; it has your rights.")] = False,
) -> None:
    """Write a checkpoint's weights as safetensors.

    A file of plain tensors needs no trust. Others run code when they are loaded: a process of its own does that, and only tensors come
    back from it. It is no sandbox.

    \b
    Examples:
      fgray convert negclip.pt negclip.safetensors
      fgray convert ViT-B-32.pt ViT-B-32.safetensors --trust
    """
    show.facts(fgray.convert(source, destination, trust))


@app.command()
def score(
    image: Annotated[str, typer.Argument(help="A picture: path or s3:// address.")],
    texts: Annotated[list[str], typer.Argument(help="What it might show.")],
    model: Annotated[str, typer.Option(metavar="KIND|YAML", help="A kind of model, or a `model:` section in YAML.")] = "lite0-minilm",
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Take the `model:` of this configuration.")] = None,
) -> None:
    """Score texts against one image: cosines and probabilities.

    \b
    Examples:
      fgray score dog.jpg "a dog" "a cat"
      fgray score dog.jpg "a dog" "a cat" --model '{kind: open_clip, arch: ViT-B-32-quickgelu, weights: openai}'
    """
    show.scores(fgray.score(image, texts, show.model(model, config)))


@shards.command("build")
def shards_build(
    source: Annotated[str, typer.Argument(help="Folder of images, COCO JSON, WebDataset tars or Parquet files.")],
    destination: Annotated[str, typer.Argument(help="Folder or s3:// prefix to write.")],
    format: Annotated[Literal["tar", "parquet"], typer.Option(help="tar is WebDataset's.")] = "tar",
    shard_megabytes: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB.")] = 256,
    images: Annotated[str | None, typer.Option(metavar="FOLDER", help="Images of a COCO JSON that lie elsewhere than the file.")] = None,
) -> None:
    """Pack images into shards with a manifest and a byte-range index.

    \b
    Examples:
      fgray shards build photos/ s3://bucket/photos --format parquet
      fgray shards build coco/annotations/instances_val2017.json shards/val2017 --images coco/val2017
    """
    show.facts(fgray.build_shards(source, destination, format, shard_megabytes << 20, images))


@shards.command("verify")
def shards_verify(destination: Annotated[str, typer.Argument(help="A packed folder.")]) -> None:
    """Read every image of a packed folder and compare it with the index.

    \b
    Example:
      fgray shards verify s3://bucket/photos
    """
    show.shard_findings(destination, fgray.verify_shards(destination))


@app.command("import")
def import_(
    benchmark: Annotated[str, typer.Argument(help="A name in `fgray list benchmarks`.")],
    source: Annotated[str, typer.Argument(help="Its data in the official layout.")],
    destination: Annotated[str, typer.Argument(help="Folder or s3:// prefix to write.")],
    options: Options = None,
) -> None:
    """Pack a benchmark's official layout into shards.

    \b
    Example:
      fgray import spec downloads/SPEC s3://bucket/spec
    """
    show.facts(fgray.import_benchmark(benchmark, source, destination, show.options(options)))


@app.command()
def fetch(
    benchmark: Annotated[str, typer.Argument(help="A name in `fgray list benchmarks`.")],
    destination: Annotated[str, typer.Argument(help="Folder to write.")],
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Server in place of the official one.")] = None,
) -> None:
    """Download a benchmark's official files, checksums checked.

    \b
    Example:
      fgray fetch sugarcrepe downloads/sugarcrepe
    """
    show.facts(fgray.fetch_benchmark(benchmark, destination, mirror))


@listing.command("benchmarks")
def list_benchmarks(name: Annotated[str | None, typer.Argument(help="Show the options of this one.")] = None) -> None:
    """List what models can be evaluated on, or the options of one benchmark.

    \b
    Example:
      fgray list benchmarks retrieval
    """
    columns = ("name", "title", "summary") if name is None else ("option", "default", "meaning")
    show.table(fgray.list_benchmarks(name), columns=columns)


@listing.command("models")
def list_models() -> None:
    """List the kinds of models."""
    show.table(fgray.list_models())


@listing.command("metrics")
def list_metrics() -> None:
    """List the metrics and what they mean."""
    show.table(fgray.list_metrics())


@listing.command("filters")
def list_filters(name: Annotated[str | None, typer.Argument(help="Show the options of this one.")] = None) -> None:
    """List the filters of mining, or the options of one of them.

    \b
    Example:
      fgray list filters near_duplicate_images
    """
    show.table(fgray.list_filters(name))


@listing.command("generators")
def list_generators(name: Annotated[str | None, typer.Argument(help="Show the options of this one.")] = None) -> None:
    """List the generators of text negatives, or the options of one of them.

    \b
    Example:
      fgray list generators ce_clip
    """
    show.table(fgray.list_generators(name))


@listing.command("losses")
def list_losses(name: Annotated[str | None, typer.Argument(help="Show the options of this one.")] = None) -> None:
    """List the losses of contrastive training, or the options of one of them.

    \b
    Examples:
      fgray list losses
      fgray list losses ce_clip
    """
    show.table(fgray.list_losses(name))


@app.command()
def schema() -> None:
    """Print the JSON schema of configuration files, for editors.

    \b
    Example:
      fgray schema > fgray.schema.json
    """
    show.facts(fgray.schema())


@store.command("gc")
def store_gc(
    uri: Annotated[str, typer.Argument(help="The result store.")],
    runs: Annotated[list[str], typer.Argument(help="Run folders that stay reproducible.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Retire results that none of the given runs needs.

    \b
    Example:
      fgray store gc runs/store runs/base runs/finetuned --dry-run
    """
    show.facts(fgray.gc_store(uri, runs, dry_run))


@app.command()
def doctor() -> None:
    """Look at packages, devices, disk, S3 settings and weights."""
    show.findings(fgray.doctor())
