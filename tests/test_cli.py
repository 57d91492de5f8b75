"""The command line as its users meet it: fast, teaching, one line per mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

import fgray
from fgray import verbs

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = [
    "submit", "plan", "report", "compare", "explore", "export", "convert", "score", "shards build", "shards verify", "import", "fetch",
    "list benchmarks", "list models", "list metrics", "list filters", "list generators", "schema", "store gc", "doctor",
]  # fmt: skip


def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fgray", *arguments]
    env = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=timeout)


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import fgray.cli\n"
        "sys.argv = ['fgray', '--help']\n"
        "try: fgray.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'transformers', 'open_clip', 'pyarrow', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy), file=sys.stderr)\n"
    )
    seconds = []
    for _ in range(5):  # other work on the machine may disturb some
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert "heavy []" in done.stderr
        assert "fgray submit configs/quickstart.yaml" in done.stdout
    assert min(seconds) < 0.5


@pytest.mark.parametrize("module", ["torch", "ray", "transformers", "open_clip"])
def test_importing_the_package_is_light(module: str) -> None:
    code = f"import sys, fgray; dir(fgray); fgray.load_config; assert {module!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    if not command.startswith("list") and command != "doctor":
        assert f"\n    fgray {command}" in done.stdout, "show an example on a line of its own"


def test_every_verb_of_the_command_line_is_a_function() -> None:
    assert sorted(fgray.__all__) == sorted(verbs.__all__)
    for name in fgray.__all__:
        assert getattr(fgray, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        fgray.trane  # noqa: B018


def test_a_verb_is_not_replaced_by_the_subpackage_of_its_name() -> None:
    import fgray.report.html

    assert "fgray.report.html" in sys.modules
    assert fgray.report is verbs.report


def test_close_names_are_suggested() -> None:
    assert "Did you mean 'submit'?" in run("sumbit", "x").stderr
    assert "--output" in run("submit", "x", "--ouput", "y").stderr
    assert run("sumbit").returncode == 2


def test_a_mistake_is_one_line() -> None:
    done = run("submit", "configs/quickstart.yaml", "--set", "compute.wrokers=2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: unknown key 'compute.wrokers' [--set compute.wrokers=2]: did you mean 'workers'?\n"


def test_further_mistakes_are_further_lines() -> None:
    done = run("plan", "configs/quickstart.yaml", "--set", "limit=0", "--set", "stats.level=3")
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:", "error:"]


def test_debugging_shows_the_traceback() -> None:
    assert "Traceback" in run("submit", "configs/quickstart.yaml", "--set", "limit=0", FGRAY_DEBUG="1").stderr


def test_a_cluster_is_named_by_its_file() -> None:
    done = run("submit", "configs/quickstart.yaml", "--cluster", "cluster/local-multinod.yaml")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the cluster file does not exist" in done.stderr and "cluster/local-multinode.yaml" in done.stderr


def test_an_interrupt_is_quiet(tmp_path: Path) -> None:
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)  # reading it waits for a writer that never comes
    command = [sys.executable, "-m", "fgray", "plan", str(fifo)]
    # A test run in the background of a shell inherits an ignored SIGINT, which a person's terminal does not send.
    process = subprocess.Popen(
        command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    deadline = time.monotonic() + 60
    while "fifo_open" not in (state := Path(f"/proc/{process.pid}/wchan").read_text()) and time.monotonic() < deadline:
        if state == "0":  # the kernel does not say where a process waits
            time.sleep(3)
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_schema_is_json() -> None:
    assert "EvalJob" in json.loads(run("schema").stdout)["$defs"]


def test_lists() -> None:
    benchmarks = run("list", "benchmarks").stdout
    assert all(name in benchmarks for name in ("spec", "spec_style", "sugarcrepe", "retrieval", "zero_shot"))
    assert "lite0-minilm" in run("list", "models").stdout
    assert "mean_per_class_recall" in run("list", "metrics").stdout


def test_the_options_of_a_benchmark_are_listed() -> None:
    lines = run("list", "benchmarks", "spec_style", COLUMNS="160").stdout.splitlines()
    rows = {line.split()[0]: line.rstrip() for line in lines[1:] if not line.startswith(" ")}
    assert {"cases", "seed", "subsets"} <= set(rows)
    assert rows["cases"].split()[1] == "20" and rows["cases"].endswith("cases per subset; a case has K images and K texts")
    assert run("list", "benchmarks", "spec_stile").stderr == "error: no benchmark is called 'spec_stile': did you mean 'spec_style'?\n"


def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "fgray", "schema"]
        done = subprocess.run(command, cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device") and done.stderr.count("\n") == 1


def test_an_output_that_is_not_utf8_still_works() -> None:
    done = run("schema", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert json.loads(done.stdout) == fgray.schema()


def test_broken_user_code_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken_encoder.py").write_text("class MyEncoder\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    model = "{kind: python, path: broken_encoder:MyEncoder}"
    done = run("score", str(tmp_path / "a.png"), "a", "--model", model, PYTHONPATH=str(tmp_path))
    assert done.stderr.startswith("error: importing 'broken_encoder' failed with SyntaxError")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_finished_run_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    for content in (None, "[]", "{}"):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        for command in (("report", str(tmp_path)), ("store", "gc", str(tmp_path / "store"), str(tmp_path))):
            done = run(*command)
            assert done.returncode == 1
            assert "]: name a run folder" in done.stderr and done.stderr.count("\n") == 1


def test_shards_are_built_from_the_official_layout_of_coco(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    names = ["000000000139.png", "000000000285.png"]
    for shade, name in enumerate(names):
        Image.new("RGB", (4, 4), (shade * 90, 0, 0)).save(tmp_path / "val2017" / name)
    listed = tmp_path / "annotations" / "instances_val2017.json"
    listed.write_text(json.dumps({"images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": []}))
    build = ("shards", "build", str(listed), str(tmp_path / "out"))
    done = run(*build)
    assert done.returncode == 1 and "shards build --images" in done.stderr and done.stderr.count("\n") == 1
    done = run(*build, "--images", str(tmp_path / "val2017"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        for name in names:
            member = tar.extractfile(name)
            assert member is not None and member.read() == (tmp_path / "val2017" / name).read_bytes()
    done = run("shards", "build", str(tmp_path / "val2017"), str(tmp_path / "other"), "--images", str(tmp_path / "val2017"))
    assert done.returncode == 1 and "COCO .json file only" in done.stderr


def test_cleaning_keeps_the_results() -> None:
    done = subprocess.run(["make", "--dry-run", "clean"], cwd=PROJECT, capture_output=True, text=True, check=True)
    removed = done.stdout.split()
    assert ".venv" in removed and "runs" not in removed


def test_doctor_never_shows_secrets() -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIA-hidden-1",
        "AWS_SECRET_ACCESS_KEY": "hidden-2",
        "AWS_ENDPOINT_URL": "http://me:hidden-3@127.0.0.1:1",
    }
    done = run("doctor", **secrets)
    assert done.returncode == 0
    assert "torch" in done.stdout
    assert "127.0.0.1:1" in done.stdout
    assert "hidden" not in done.stdout + done.stderr


def test_score_gives_probabilities(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "red.png")
    done = run("score", str(tmp_path / "red.png"), "a red square", "a blue circle", "--model", "{kind: tiny, seed: 1}")
    rows = done.stdout.splitlines()[1:]
    assert sum(float(row.split("%")[0]) for row in rows) == pytest.approx(100, abs=0.11)
    assert {row.split("  ")[-1].strip() for row in rows} == {"a red square", "a blue circle"}
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    error = run("score", str(broken), "a", "--model", "tiny").stderr
    assert error.startswith("error: cannot decode the image (")
    assert error.count("\n") == 1
