"""The loop: diagnose the base, mine with it, train the arms, evaluate all of them, and give the verdict; once per seed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from fgray.config.loop import BASE, MINED, LoopJob
from fgray.config.schema import BenchmarkConfig, EvalJob, MineJob, ModelConfig, Section, TrainedModel
from fgray.config.train import TrainClipJob, Training
from fgray.engine.lease import open_run
from fgray.evaluation import evaluate
from fgray.loop.checks import check
from fgray.loop.gates import EXIT_CODES
from fgray.loop.seeds import across_seeds
from fgray.loop.verdict import VERDICT, against, verdict
from fgray.mining.run import mine
from fgray.models import open_model
from fgray.models.trained import read_card
from fgray.report.loop import write_loop_report
from fgray.runs import SELECTION, RunFolder, describe_job
from fgray.training.export import export_model, weights_of
from fgray.training.run import train
from fgray.training.wise_ft import Point, choose, interpolate


@dataclass(frozen=True)
class LoopResult:
    """A finished loop.

    Attributes:
        uri: its run folder.
        report: address of report.html.
        verdict: what verdict.json holds.
    """

    uri: str
    report: str
    verdict: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """Return 0 for pass, 3 for fail, 4 for inconclusive."""
        return EXIT_CODES[self.verdict["overall"]]

    def table(self) -> Table:
        """Return the primary metrics per arm, and what the gates say, for the console."""
        table = Table(title=f"verdict on '{self.verdict['subject']}': {self.verdict['overall']}", title_justify="left")
        for column in ("seed", "arm", "metric", "before", "after", "change", "p, adjusted"):
            table.add_column(column, justify="right" if column in ("before", "after", "change", "p, adjusted") else "left", overflow="fold")
        for seed, one in self.verdict["seeds"].items():
            for arm, facts in one["arms"].items():
                for name, row in facts["metrics"].items():
                    if row["primary"]:
                        numbers = (f"{100 * row['before']:.1f} %", f"{100 * row['after']:.1f} %", f"{100 * row['delta']:+.1f}")
                        table.add_row(seed, arm, name, *numbers, f"{row['p_adjusted']:.3g}")
        return table


def run_loop(job: LoopJob, source: Mapping[str, Any] | None = None) -> LoopResult:
    """Run a loop, or finish one that was interrupted: each of its parts is a run of its own, and resumes as such.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.

    Raises:
        FgrayError: whatever stops one of the parts.
    """
    with open_run(job) as folder:
        run = describe_job(job, source)
        run["model"] = {"card": open_model(job.model).card.to_dict()}
        run[SELECTION] = check(job, _store(folder.uri))
        folder.write_json(RunFolder.RUN, run)
        seeds = {str(seed): _Seed(job, seed, folder.uri).run() for seed in job.seeds}
        outcomes = [one["arms"][job.subject]["overall"] for one in seeds.values()]
        worst = max(outcomes, key=("pass", "inconclusive", "fail").index)
        changes = {seed: {arm: facts["metrics"] for arm, facts in one["arms"].items()} for seed, one in seeds.items()}
        content = {
            "subject": job.subject,
            "overall": worst,
            "seeds": seeds,
            "across_seeds": across_seeds(changes, job.stats.level),
            "across_seeds_against": across_seeds({seed: one["against"] for seed, one in seeds.items()}, job.stats.level),
        }
        folder.write_json(VERDICT, content)
        return LoopResult(folder.uri, write_loop_report(folder), content)


class _Seed:
    """One repetition."""

    def __init__(self, job: LoopJob, seed: int, folder: str) -> None:
        self.job, self.seed, self.folder, self.uri = job, seed, folder, f"{folder}/seed-{seed}"

    def run(self) -> dict[str, Any]:
        job = self.job
        base = self._base()
        before = self._evaluate(BASE, base, job.benchmarks)
        if job.mine is not None:
            self._say("mining negatives with the base")
            content = {**_plain(job.mine), **self._named("mine", "mine"), "model": _plain(base), "store": _store(self.folder)}
            content["disjoint_from"] = self._held_out(job.mine.disjoint_from)
            mine(MineJob.model_validate(content))
        after = {}
        trained = {} if job.base is None else {BASE: f"{self.uri}/train-{BASE}"}
        for arm, training in job.arms.items():
            trained[arm] = self._train(arm, training, base)
            after[arm] = self._evaluate(arm, TrainedModel(kind="trained", path=trained[arm]), job.benchmarks)
        found = verdict(before, after, job.gates, trained)
        found["against"] = against(after[job.subject], {arm: run for arm, run in after.items() if arm != job.subject})
        found["steps"] = {arm: RunFolder(trained[arm]).read_json(RunFolder.METRICS)["training"]["steps"] for arm in job.arms}
        found["chance"] = {name: one["chance"] for name, one in RunFolder(before).read_json(RunFolder.METRICS)["metrics"].items()}
        if job.wise_ft is not None and found["arms"][job.subject]["overall"] == "fail":
            found["proposal"] = self._propose(base, trained[job.subject], before)
        return found

    def _say(self, what: str) -> None:
        print(f"seed {self.seed}: {what}", file=sys.stderr, flush=True)

    def _named(self, kind: str, part: str) -> dict[str, str]:
        return {"job": kind, "name": f"{self.job.name}, {part}", "output": f"{self.uri}/{part}"}

    def _base(self) -> ModelConfig:
        job = self.job
        model = job.model.model_copy(update={"seed": self.seed}) if "seed" in type(job.model).model_fields else job.model
        if job.base is None:
            return model
        return TrainedModel(kind="trained", path=self._train(BASE, job.base, model))

    def _train(self, arm: str, training: Training, model: ModelConfig) -> str:
        self._say(f"training {arm}")
        content = {**_plain(training), **self._named("train_clip", f"train-{arm}"), "model": _plain(model), "seed": self.seed}
        content |= {"store": _store(self.folder), "disjoint_from": self._held_out(training.disjoint_from)}
        for one in content["sources"]:
            one["negatives"] = [f"{self.uri}/mine" if name == MINED else name for name in one["negatives"]]
        return train(TrainClipJob.model_validate(content)).uri

    def _held_out(self, named: list[BenchmarkConfig]) -> list[dict[str, Any]]:
        """Return the sets of which no picture may be trained on or mined: what the loop evaluates on, and what a section names.

        Pictures that a benchmark makes itself (it needs no root) are no copies of others, and drawings are so alike that to lay them over
        each other would take longer than the training; `fgray.loop.checks` compares their files.
        """
        job = self.job
        own = [*job.benchmarks, *(job.wise_ft.benchmarks if job.wise_ft is not None else [])]
        found = [{**_plain(one), "root": one.root or job.data.root} for one in own if one.root or job.data.root]
        return found + [plain for plain in map(_plain, named) if plain not in found]

    def _evaluate(self, arm: str, model: ModelConfig, benchmarks: list[BenchmarkConfig]) -> str:
        self._say(f"evaluating {arm}")
        job = self.job
        evaluation = EvalJob(
            job="eval",
            name=f"{job.name}, {arm}",
            output=f"{self.uri}/eval-{arm}",
            store=_store(self.folder),
            model=model,
            data=job.data,
            benchmarks=benchmarks,
            compute=job.compute,
            stats=job.stats,
            primary=job.primary,
        )
        return evaluate(evaluation).uri

    def _propose(self, base: ModelConfig, trained: str, before: str) -> dict[str, Any]:
        """Try weights between base and subject on the selection set, and judge the best passing share on the verdict's."""
        job, asked = self.job, self.job.wise_ft
        assert asked is not None
        ends = weights_of(base), weights_of(TrainedModel(kind="trained", path=trained))
        points = []
        for alpha in (0.0, *asked.alphas, 1.0):
            path = f"{self.uri}/wise-ft/alpha-{alpha:g}"
            origin = {"name": f"{job.name}, {job.subject} at {alpha:g}", "alpha": alpha, "subject": read_card(trained)[1].sha256}
            export_model(path, base, interpolate(*ends, alpha), origin)
            run = self._evaluate(f"wise-ft-{alpha:g}", TrainedModel(kind="trained", path=path), asked.benchmarks)
            metrics = RunFolder(run).read_json(RunFolder.METRICS)["metrics"]
            points.append(Point(alpha, metrics[asked.target]["value"], metrics[asked.keep]["value"]))
        chosen = choose(points[1:], points[0], asked.margin)
        content: dict[str, Any] = {"points": [vars(point) for point in points], "alpha": None if chosen is None else chosen.alpha}
        if chosen is not None:
            name = f"{job.subject}-{chosen.alpha:g}"
            model = TrainedModel(kind="trained", path=f"{self.uri}/wise-ft/alpha-{chosen.alpha:g}")
            after = {name: self._evaluate(name, model, job.benchmarks)}
            content["verdict"] = verdict(before, after, job.gates, {name: self.folder})["arms"][name]  # whose run.json names what chose it
        return content


def _store(folder: str) -> str:
    return f"{folder}/store"  # one for all seeds: what it keeps is named by its content


def _plain(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json")
