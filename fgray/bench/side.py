"""One side of a comparison in a process of its own, so that threads, memory and imports are its own, too.

The parent starts ``python -m MODULE TASK.json`` and asks for one turn at a time; interleaved turns see the same machine.
The module hands its functions to `serve`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fgray.errors import RunError

Turn = Callable[[int], dict[str, Any]]


class Side:
    """The parent's end: a process that answers turns until it is closed."""

    def __init__(self, module: str, folder: Path, name: str, threads: int, task: Mapping[str, Any]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        file = folder / f"{name}.json"
        file.write_text(json.dumps({"side": name, "threads": threads, "folder": str(folder), **task}))
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(file)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._answer()  # it is ready

    def turn(self, number: int) -> dict[str, Any]:
        """Let it take a turn.

        Raises:
            RunError: the process failed.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer tells
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            last = (self.log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
            fix = "free memory or lower the sizes" if self.process.returncode == -9 else None
            raise RunError(f"the side '{self.name}' ended with status {self.process.returncode}: {last}", fix=fix)
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(sides: Mapping[str, Callable[[dict[str, Any]], Turn]], task_file: str) -> None:
    """Build the side that the task names and answer turns with one line of JSON each, until the parent goes away."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    task = json.loads(Path(task_file).read_text())
    turn = sides[task["side"]](task)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(int(line))), file=answers, flush=True)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far.

    From /proc: ``getrusage`` starts with the memory of the parent that forked it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
