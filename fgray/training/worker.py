"""What every worker of a training run does: resume, step, log, checkpoint, evaluate. Runs in any torch.distributed group, or in none."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist

from fgray.config.fingerprint import fingerprint
from fgray.config.train import TrainClipJob
from fgray.embedding.compute import device_name
from fgray.errors import DataError, RunError
from fgray.losses.combine import CombinedLoss
from fgray.losses.features import Inputs
from fgray.runs import RunFolder
from fgray.training.checkpoint import Checkpoints, Saved
from fgray.training.damage import Damage, quarantine_table
from fgray.training.engine import Engine
from fgray.training.log import TrainingLog, note_start, open_trackers
from fgray.training.model import Trainable, build_trainable
from fgray.training.order import Order
from fgray.training.reader import Reader
from fgray.training.selection import Selection
from fgray.training.sources import load_sources
from fgray.training.state import gather_state, restore_state
from fgray.training.step import StepOptions, follow_average, train_step
from fgray.training.tensors import MicroBatch, prepare

LOG_ROWS = 2000  # of a run; a shorter run logs every step
POLL_STEPS = 10  # at most, between questions whether this machine is about to be taken away
POLL_SECONDS = 2.0  # likewise: a notice comes 30 s ahead or less, and a checkpoint takes its time
CACHE_BYTES = 2 << 30  # of preprocessed pictures per worker
_LOSS = "loss/"


def train_worker(job: TrainClipJob, device: str, preempted: Callable[[], bool] = lambda: False) -> None:
    """Train from the newest checkpoint, or from the start, to the end.

    Args:
        job: the configuration, whose output the driver holds.
        device: "cpu" or "cuda" for this worker.
        preempted: tells whether this or another worker's machine is about to be taken away; all workers get one answer.

    Raises:
        FgrayError: what is wrong with data, model, storage, or the numbers.
    """
    _Worker(job, device, preempted).run()


class _Worker:
    def __init__(self, job: TrainClipJob, device: str, preempted: Callable[[], bool]) -> None:
        torch.set_num_threads(job.compute.threads)
        self.job, self.preempted = job, preempted
        self.folder = RunFolder(job.output)
        self.sources = load_sources(job, cache_of(job))
        self.order = order_of(job, self.sources)
        self.steps = job.steps or self.order.steps(job.epochs or 1)
        compute = job.compute
        self.trainable: Trainable = build_trainable(
            job.model,
            precision=compute.precision,
            freeze=job.freeze,
            dropout=job.dropout,
            activation_checkpointing=compute.activation_checkpointing,
            keep_frozen=compute.keep_frozen,
            regions=job.regions,
        )
        self.loss = CombinedLoss(job.losses, inputs_of(job, getattr(self.trainable.module.towers, "logit_bias", None) is not None))
        self.engine = Engine(self.trainable, job.optimizer, compute, device, self.steps)
        self.loss.to(self.engine.device)
        self.first = self.engine.rank == 0
        self.options = StepOptions.of(job)
        self.selection = Selection(job) if job.selection is not None else None
        self.damage = Damage(sum(source.index.table.num_rows for source in self.sources), job.data.max_corrupt_fraction)

    def run(self) -> None:
        """Take the steps that are left."""
        checkpoints = Checkpoints(self.folder.storage, self.job.checkpoints.keep)
        saved = checkpoints.load()
        start = self._restore(saved) if saved is not None else 0
        with ExitStack() as stack:
            if self.first:
                stack.enter_context(checkpoints)
                note_start(self.folder, start, self.engine.world, device_name(self.engine.device.type))
                trackers = open_trackers(self.job.tracking, self.job.name, self.folder, fingerprint(self.job), start)
                self.log: TrainingLog | None = stack.enter_context(TrainingLog(self.folder, trackers, start))
            else:
                self.log = None
            reader = stack.enter_context(self._reader())
            if start < self.steps:
                self._steps(start, reader, checkpoints)
        self.engine.close()

    def _reader(self) -> Reader:
        job = self.job
        return Reader(
            self.sources,
            self.order,
            self.trainable.preprocess,
            job.negatives,
            job.augment,
            job.seed,
            self.engine.rank,
            self.engine.world,
            threads=max(2, job.compute.threads),
            max_pixels=job.data.max_pixels,
            tolerant=job.data.max_corrupt_fraction > 0,
            cache_bytes=CACHE_BYTES,
            regions=job.regions,  # also where no term reads them: ablations see the same pictures
            wanted=self.loss.needs,
        )

    def _steps(self, start: int, reader: Reader, checkpoints: Checkpoints) -> None:
        every = -(-self.steps // LOG_ROWS)
        meter = _Meter(self.job.batch_size, self.engine.device)
        batches = self._ahead(reader, start)
        asked, ask_at = (time.monotonic(), start), start + 1
        for step in range(start, self.steps):
            before = time.perf_counter()
            parts = next(batches)
            meter.waited(time.perf_counter() - before)
            numbers = train_step(self.engine, self.loss, parts, step, self.options)
            meter.stepped()
            done = step + 1
            if done % every == 0 or done == self.steps:
                damaged = self._count_damaged(done, reader)
                if self.log is not None:
                    self.log.add(done, {**numbers, **meter.read(), **damaged, "epoch": done / self.order.steps_per_epoch})
            before = time.perf_counter()
            due = self.selection is not None and self.selection.due(done, self.steps)
            stop = self._evaluate(done) if due else False
            leaving = False
            if done == ask_at:
                leaving = self.preempted()
                ask_at = done + self._steps_until_asked(done, asked)
                asked = time.monotonic(), done
            # What was evaluated is kept at once: it may be the best, which is exported.
            if due or leaving or done == self.steps or done % self.job.checkpoints.every_steps == 0:
                self._count_damaged(done, reader)
                self._save(done, checkpoints, stop)
                if leaving:
                    checkpoints.wait()
            if stop:
                break
            meter.leave_out(time.perf_counter() - before)

    def _steps_until_asked(self, done: int, asked: tuple[float, int]) -> int:
        """Return the steps until the next question, the same for all workers: asking is a meeting of all."""
        at, step = asked
        steps = torch.tensor(max(1, min(POLL_STEPS, int(POLL_SECONDS * (done - step) / max(1e-9, time.monotonic() - at)))))
        if self.engine.world > 1:
            steps = steps.to(self.engine.device)
            dist.broadcast(steps, 0)
        return int(steps.item())

    def _ahead(self, reader: Reader, start: int) -> Iterator[list[MicroBatch]]:
        """Yield the tensors of each step; a thread makes the next ones while a step computes."""
        batches = reader.prefetch(start, self.steps)
        micro = self.job.compute.micro_batch
        with ThreadPoolExecutor(1, "tokens") as pool:

            def make() -> list[MicroBatch] | None:
                batch = next(batches, None)
                return None if batch is None else prepare(batch, self.trainable, micro)

            following = pool.submit(make)
            while (parts := following.result()) is not None:
                following = pool.submit(make)
                yield parts

    def _evaluate(self, done: int) -> bool:
        """Evaluate the weights as they are on the selection sets; tell whether to stop."""
        assert self.selection is not None
        state = gather_state(self.engine)  # every worker takes part
        stop = torch.zeros(1)
        if self.first:
            value = self.selection.evaluate(done, state)
            if self.log is not None:
                self.log.add(done, {"selection": value})
            stop[0] = float(self.selection.exhausted)
        if self.engine.world > 1:
            stop = stop.to(self.engine.device)
            dist.broadcast(stop, 0)
        return bool(stop.item())

    def _count_damaged(self, done: int, reader: Reader) -> dict[str, float]:
        """Unite what the workers' steps met; at every step with a row in the log and before every checkpoint, where damage is tolerated.

        Raises:
            DataError: more images are damaged than may be; for every number of workers alike, since all compare the same set.
        """
        if not reader.tolerant:
            return {}
        self.damage.unite(reader.damaged(done), self.engine.world)
        try:
            self.damage.check(self.folder.uri)
        except DataError:
            if self.first:
                self.folder.write_table(RunFolder.QUARANTINE, quarantine_table(self.damage.facts()))
            if self.engine.world > 1:
                dist.barrier()  # the first to leave takes the others along; the list must lie there by then
            raise
        return {"damaged_images": len(self.damage)}

    def _save(self, done: int, checkpoints: Checkpoints, last: bool) -> None:
        tensors = gather_state(self.engine)
        if self.first:
            tensors.update({_LOSS + name: value.detach().cpu().clone() for name, value in self.loss.state_dict().items()})
            facts: dict[str, Any] = {"finished": last or done == self.steps, "loss_scale": self.engine.loss_scale}
            facts["damaged"] = self.damage.facts()
            best = None
            if self.selection is not None:
                facts["selection"], best = self.selection.history, self.selection.best_step
            if self.log is not None:
                self.log.flush()  # before the checkpoint, which is resumed from with the rows up to it
            checkpoints.save(done, tensors, facts, best)

    def _restore(self, saved: Saved) -> int:
        """Take over a checkpoint and return the number of steps done."""
        tensors = dict(saved.tensors)
        own = {name.removeprefix(_LOSS): tensors.pop(name) for name in list(tensors) if name.startswith(_LOSS)}
        restore_state(self.engine, tensors)
        follow_average(self.engine)
        try:
            self.loss.load_state_dict(own)
        except RuntimeError as error:
            raise RunError("the checkpoint is of other losses", where=self.folder.uri, fix="choose another output") from error
        self.engine.loss_scale = saved.facts["loss_scale"]
        self.damage.restore(saved.facts.get("damaged", []))
        if self.selection is not None:
            self.selection.history[:] = saved.facts.get("selection", [])
        if saved.facts["finished"]:
            return self.steps
        return saved.step


class _Meter:
    """Rates of the steps since they were last read; evaluations and checkpoints between steps do not count."""

    def __init__(self, pairs: int, device: torch.device) -> None:
        self.pairs, self.device = pairs, device
        self._start, self._waited, self._count = time.perf_counter(), 0.0, 0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def leave_out(self, seconds: float) -> None:
        self._start += seconds

    def stepped(self) -> None:
        self._count += 1

    def read(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        numbers = {
            "steps_per_second": self._count / seconds,
            "pairs_per_second": self._count * self.pairs / seconds,
            "data_wait_share": self._waited / seconds,
            "memory_gib": memory_gib(self.device),
        }
        self._start, self._waited, self._count = time.perf_counter(), 0.0, 0
        return numbers


def memory_gib(device: torch.device) -> float:
    """Return the largest memory so far: the GPU's, or this process's resident one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def order_of(job: TrainClipJob, sources: list[Any]) -> Order:
    """Return the order of a job's samples.

    Raises:
        DataError: a batch would hold a pair twice, as its own negative.
    """
    shards = [source.shards for source in sources]
    order = Order([len(source) for source in sources], [source.share for source in sources], job.batch_size, job.seed, shards)
    for source, count in zip(sources, order.counts, strict=True):
        if count > len(source):
            what = f"a batch takes {count} pairs of {source.name}, which has {len(source)}: a pair would be its own negative"
            raise DataError(what, where="batch_size", fix="make batch_size or the source's share smaller, or bring more pairs")
    return order


def inputs_of(job: TrainClipJob, bias: bool) -> Inputs:
    """Return what a job brings to its losses; `bias` tells whether its model has a logit bias."""
    most = 0 if job.regions is None else job.regions.most
    return Inputs(job.negatives.texts, job.negatives.images, bias, most, job.gather)


def cache_of(job: TrainClipJob) -> str:
    """Return where image indexes and composed images of a job are kept."""
    return job.store_uri
