"""The training's log: log.jsonl in the run folder, and the trackers that the configuration asks for besides."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from fgray.errors import ConfigError, DataError, NotFound
from fgray.runs import RunFolder

FLUSH_SECONDS = 5.0
Row = dict[str, Any]


class Tracker(Protocol):
    """Something that shows numbers over steps."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of one step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class TrainingLog:
    """The rows of log.jsonl. They are rewritten as a whole, because no store appends; a row is a hundred bytes.

    Args:
        folder: the run folder.
        trackers: get every row's numbers, too.
        step: rows after this step are forgotten: they belong to an attempt that died before its next checkpoint.
    """

    def __init__(self, folder: RunFolder, trackers: Sequence[Tracker] = (), step: int = 0) -> None:
        self.folder, self.trackers = folder, trackers
        self.rows: list[Row] = [row for row in read_log(folder) if row["step"] <= step]
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.flush()
        finally:
            for tracker in self.trackers:
                tracker.close()

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a row; it reaches the store within `FLUSH_SECONDS` of steps, or at the next `flush`."""
        self.rows.append({"step": step, **{name: _plain(value) for name, value in numbers.items()}})
        for tracker in self.trackers:
            tracker.write(step, numbers)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows so far."""
        self.folder.storage.write_bytes(RunFolder.LOG, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self._flushed = time.monotonic()


def read_log(folder: RunFolder) -> list[Row]:
    """Return the rows of a run's log; none where there is no log.

    Raises:
        DataError: it is damaged.
    """
    return _rows(folder, RunFolder.LOG)


def note_start(folder: RunFolder, step: int, workers: int, device: str) -> None:
    """Append to starts.jsonl that a group of workers goes on from a step; the log, of which that cuts the end off, does not say it.

    Args:
        folder: the run folder.
        step: steps done before.
        workers: of the group.
        device: that the first of them computes on.
    """
    lost = max([0, *(row["step"] - step for row in read_log(folder)[-1:])])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [*read_starts(folder), {"at": now, "step": step, "workers": workers, "device": device, "lost_steps": lost}]
    folder.storage.write_bytes(RunFolder.STARTS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_starts(folder: RunFolder) -> list[Row]:
    """Return when a run's workers were started, from which step, and how many logged steps had to be taken again.

    Raises:
        DataError: the file is damaged.
    """
    return _rows(folder, RunFolder.STARTS)


def _rows(folder: RunFolder, name: str) -> list[Row]:
    try:
        return [json.loads(line) for line in folder.storage.read_bytes(name).splitlines()]
    except NotFound:
        return []
    except ValueError as error:
        fix = "remove that file and run the same command again; checkpoints do not need it"
        raise DataError(f"a line is not JSON ({error})", where=f"{folder.uri}/{name}", fix=fix) from error


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no infinity


def open_trackers(
    names: Sequence[Literal["tensorboard", "wandb", "mlflow"]], name: str, folder: RunFolder, fingerprint: str, step: int
) -> list[Tracker]:
    """Open the trackers of a run; one that is resumed continues its curves.

    Args:
        names: which ones.
        name: of the run.
        folder: the run folder; TensorBoard's files lie in it, so it must be local for that one.
        fingerprint: of the configuration; together with the folder it identifies the run to W&B and MLflow.
        step: steps done before.

    Raises:
        ConfigError: a package is not installed or cannot start, or TensorBoard is asked to write to S3.
    """
    kinds: dict[str, Callable[[str, RunFolder, str, int], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MlFlow}
    identity = hashlib.sha256(f"{fingerprint} {folder.uri}".encode()).hexdigest()
    trackers: list[Tracker] = []
    for one in names:
        try:
            trackers.append(kinds[one](name, folder, identity, step))
        except ImportError as error:
            raise ConfigError(f"{one} is not installed ({error})", where="tracking", fix="pip install 'fgray[tracking]'") from error
        except ConfigError:
            raise
        except Exception as error:  # their own errors share no base class
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{one} cannot be started ({reason})", where="tracking", fix=f"check {one}'s own settings") from error
    return trackers


class _TensorBoard:
    def __init__(self, name: str, folder: RunFolder, identity: str, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        if not folder.storage.is_local:
            raise ConfigError("TensorBoard's files cannot be written to S3", where="tracking", fix="use wandb or mlflow, or a local output")
        self._writer: Any = SummaryWriter(str(Path(folder.uri) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, name: str, folder: RunFolder, identity: str, step: int) -> None:
        import wandb

        self._run: Any = wandb.init(project="fgray", name=name, id=identity[:32], resume="allow")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _MlFlow:
    def __init__(self, name: str, folder: RunFolder, identity: str, step: int) -> None:
        import mlflow

        mlflow.set_experiment("fgray")
        found = mlflow.search_runs(filter_string=f"tags.fgray = '{identity}'", output_format="list", max_results=1)
        self._mlflow: Any = mlflow
        self._mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=name, tags={"fgray": identity})

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self._mlflow.end_run()
