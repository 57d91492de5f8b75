"""Writes the report of a finished run again, whatever kind of job it was."""

from __future__ import annotations

import json

from fgray.benchmarks.base import LoadedBenchmark
from fgray.config import config_from_text
from fgray.config.jobs import AnyJob
from fgray.config.schema import DistractorsJob, EvalJob, MineJob
from fgray.errors import DataError
from fgray.runs import RunFolder


def report_again(run: str) -> str:
    """Write a run's report.html from its files and return its address.

    Raises:
        FgrayError: the folder is no finished run. Images that are gone leave a gap in the gallery.
    """
    folder = RunFolder(run)
    kind = folder.read_run().get("job")
    if kind == "train_clip":
        from fgray.report.train import write_train_report

        return write_train_report(folder)
    if kind == "loop":
        from fgray.report.loop import write_loop_report

        return write_loop_report(folder)
    if kind == "text_negatives":
        from fgray.report.text_negatives import write_text_negatives_report

        return write_text_negatives_report(folder)
    job = job_of(folder) if kind in ("mine", "distractors") else None
    if isinstance(job, MineJob):
        from fgray.mining.run import report_again as report_mining

        return report_mining(folder, job)
    if isinstance(job, DistractorsJob):
        from fgray.mining.distractors import report_again as report_distractors

        return report_distractors(folder, job)
    from fgray.report.html import write_report

    return write_report(folder, ImagesOfRun(folder).read)


def job_of(folder: RunFolder) -> AnyJob:
    """Return the job of a run folder, with the variables of today's environment."""
    written = folder.read_json(folder.RUN).get("config")
    return config_from_text(json.dumps(written), f"{folder.uri}/{folder.RUN}").job


class ImagesOfRun:
    """Reads the images that an evaluation read, opening its benchmarks when the first one is asked for."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._benchmarks: dict[str, LoadedBenchmark] | None = None

    def read(self, benchmark: str, key: str) -> bytes:
        """Return the encoded bytes of one image.

        Raises:
            DataError: the run has no such benchmark.
            FgrayError: the image cannot be read.
        """
        from fgray.evaluation.run import read_image

        if self._benchmarks is None:
            from fgray.evaluation.plan import load_benchmarks

            job = job_of(self._folder)
            assert isinstance(job, EvalJob)
            self._benchmarks = load_benchmarks(job)
        if benchmark not in self._benchmarks:
            raise DataError(f"no benchmark '{benchmark}' in this run", where=self._folder.uri, fix="run the job again")
        return read_image(self._benchmarks[benchmark], key)
