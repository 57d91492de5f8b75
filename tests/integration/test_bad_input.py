"""What a user does wrong gets one line that says what, where and how to mend it; the whole command line is run for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgray import cli
from tests.integration.s3_servers import S3Server
from tests.small_data import write_picture, write_spec

PROJECT = Path(__file__).resolve().parents[2]
ARCH = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


class CommandLine:
    """Runs `fgray submit` on a small SPEC folder with one thing wrong."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.data = write_spec(folder / "data", cases=2, subsets=("existence",))
        self.config = folder / "eval.yaml"
        self.write()

    def write(self, old: str = "", new: str = "") -> None:
        """Write the configuration, one piece of its text replaced."""
        text = (
            "job: eval\n"
            "name: bad-input\n"
            "model: {kind: tiny}\n"
            f"data: {{root: '{self.data}'}}\n"
            "benchmarks: [{name: spec, subsets: [existence]}]\n"
            "compute: {runner: serial}\n"
            f"output: '{self.folder / 'run'}'\n"
        )
        assert old in text
        self.config.write_text(text.replace(old, new) if old else text)

    def refusal(self, *arguments: str, command: str = "submit") -> str:
        """Run the command, which must fail with one line and no traceback, and return that line."""
        self._monkeypatch.setattr(sys, "argv", ["fgray", command, *([str(self.config)] if command == "submit" else []), *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capsys.readouterr()
        assert caught.value.code == 1
        assert "report:" not in out
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, err
        assert "Traceback" not in err
        return errors[0].removeprefix("error: ").replace(str(self.folder), "FOLDER")


@pytest.fixture
def fgray(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return CommandLine(tmp_path, capsys, monkeypatch)


def test_the_data_is_good_otherwise(fgray: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fgray", "submit", str(fgray.config)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "report.html" in capsys.readouterr().out


# --- configuration ----------------------------------------------------------------------------------------------------


def test_unknown_key(fgray: CommandLine) -> None:
    fgray.write("compute: {runner", "compute: {runer")
    assert fgray.refusal() == "unknown key 'compute.runer' [FOLDER/eval.yaml:6]: did you mean 'runner'?"


@pytest.mark.parametrize("key", ["workers", "decode_workers", "batch_size", "unit_rows"])
def test_a_count_of_nothing(fgray: CommandLine, key: str) -> None:
    message = fgray.refusal("--set", f"compute.{key}=0")
    assert message.startswith(f"compute.{key} must be greater than or equal to 1 or 'auto', not 0 [--set compute.{key}=0]: ")


def test_a_negative_seed(fgray: CommandLine) -> None:
    assert fgray.refusal("--set", "stats.seed=-1").startswith("stats.seed must be greater than or equal to 0, not -1")


def test_a_device_that_is_not_there(fgray: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # the machine may have one
    message = fgray.refusal("--set", "compute.device=gpu")
    assert message == "compute.device cannot be 'gpu' [--set compute.device=gpu]: did you mean 'cpu'?"
    assert fgray.refusal("--set", "compute.device=cuda").startswith("torch finds no GPU for device cuda [compute.device]: say cpu or auto")


def test_missing_field(fgray: CommandLine) -> None:
    fgray.write("name: bad-input\n", "")
    assert fgray.refusal() == "'name' is missing [FOLDER/eval.yaml:1]: add it (name of the run, as reports show it)"


def test_duplicate_keys_in_the_configuration(fgray: CommandLine) -> None:
    fgray.write("compute:", "name: again\ncompute:")
    assert fgray.refusal() == "duplicate key 'name' [FOLDER/eval.yaml:6]: it also stands on line 2; keep one"


def test_unknown_benchmark(fgray: CommandLine) -> None:
    assert fgray.refusal("--set", "benchmarks.0.name=specs") == "no benchmark is called 'specs': did you mean 'spec'?"


def test_unknown_benchmark_option(fgray: CommandLine) -> None:
    assert fgray.refusal("--set", "benchmarks.0.subset=[count]") == "unknown option 'subset' [benchmark spec]: did you mean 'subsets'?"


# --- models -----------------------------------------------------------------------------------------------------------


def test_wrong_model_kind(fgray: CommandLine) -> None:
    fgray.write("kind: tiny", "kind: openclip")
    assert fgray.refusal() == "model.kind: unknown kind 'openclip' [FOLDER/eval.yaml:3]: did you mean 'open_clip'?"


def test_wrong_model_name(fgray: CommandLine) -> None:
    line = fgray.refusal("--set", "model={kind: open_clip, arch: ViT-B-23}")
    assert "'ViT-B-23'" in line
    assert "did you mean 'ViT-B-32" in line


def checkpoint(fgray: CommandLine, name: str) -> str:
    (fgray.folder / "arch.json").write_text(json.dumps(ARCH))
    return f"model={{kind: open_clip, arch: '{fgray.folder / 'arch.json'}', weights: '{fgray.folder / name}', activation: gelu}}"


@pytest.mark.parametrize("runner", ["serial", pytest.param("ray", marks=pytest.mark.chaos)])
def test_checkpoint_that_does_not_fit(fgray: CommandLine, runner: str) -> None:
    import torch

    torch.save({"state_dict": {"visual.proj": torch.zeros(3, 4)}}, fgray.folder / "wrong.pt")
    model = checkpoint(fgray, "wrong.pt")
    if runner == "serial":
        line = fgray.refusal("--set", model)
    else:  # the error comes out of a worker process
        command = [sys.executable, "-m", "fgray", "submit", str(fgray.config), "--set", model, "--set", "compute={runner: ray, workers: 1}"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 1
        (line,) = [text.removeprefix("error: ") for text in done.stderr.splitlines() if text.startswith("error: ")]
        assert "Traceback" not in done.stderr
    assert "wrong.pt" in line
    assert "does not fit" in line


def test_pickle_with_foreign_globals(fgray: CommandLine) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(fgray.folder / "should-never-exist"),)

    torch.save({"state_dict": {"x": torch.zeros(1)}, "extra": Evil()}, fgray.folder / "evil.pt")
    line = fgray.refusal("--set", checkpoint(fgray, "evil.pt"))
    assert "mkdir" in line and "refused" in line and "FOLDER/evil.pt" in line
    assert not (fgray.folder / "should-never-exist").exists()


def test_missing_checkpoint(fgray: CommandLine) -> None:
    assert "FOLDER/nowhere.pt" in fgray.refusal("--set", checkpoint(fgray, "nowhere.pt"))


# --- data -------------------------------------------------------------------------------------------------------------


def test_missing_image(fgray: CommandLine) -> None:
    (fgray.data / "existence/images/001_1.jpg").unlink()
    line = fgray.refusal()
    assert "001_1.jpg" in line or "001_1" in line
    assert "FOLDER/data" in line


def test_wrong_benchmark_layout(fgray: CommandLine) -> None:
    (fgray.data / "existence").rename(fgray.data / "existance")
    line = fgray.refusal()
    assert "existence" in line and "FOLDER/data" in line


def test_annotations_that_are_no_json(fgray: CommandLine) -> None:
    (fgray.data / "existence/image2text.json").write_text("[{")
    assert "FOLDER/data/existence/image2text.json" in fgray.refusal()


def test_label_out_of_range(fgray: CommandLine) -> None:
    file = fgray.data / "existence/image2text.json"
    rows = json.loads(file.read_text())
    rows[1]["label"] = 2
    file.write_text(json.dumps(rows))
    assert "label out of range" in (line := fgray.refusal())
    assert "2" in line and "labels count from 0" in line


def test_empty_data(fgray: CommandLine) -> None:
    for name in ("image2text.json", "text2image.json"):
        (fgray.data / "existence" / name).write_text("[]")
    assert "at least one row [FOLDER/data/existence/image2text.json]" in fgray.refusal()


def test_empty_folder(fgray: CommandLine) -> None:
    (fgray.folder / "nothing").mkdir()
    assert "FOLDER/nothing" in fgray.refusal("build", str(fgray.folder / "nothing"), str(fgray.folder / "packed"), command="shards")


def test_no_such_folder(fgray: CommandLine) -> None:
    assert "FOLDER/elsewhere" in fgray.refusal("--set", f"data.root={fgray.folder / 'elsewhere'}")


def test_duplicate_image_keys(fgray: CommandLine) -> None:
    photos = fgray.folder / "photos"
    write_picture(photos / "a.jpg", 1)
    write_picture(photos / "a.png", 2)
    line = fgray.refusal("build", str(photos), str(fgray.folder / "packed"), command="shards")
    assert "duplicate keys" in line and "a.jpg" in line and "a.png" in line


def test_too_many_corrupt_images(fgray: CommandLine) -> None:
    (fgray.data / "existence/images/001_1.jpg").write_bytes(b"not a picture")
    line = fgray.refusal()
    assert "1 of 8 items" in line and "data.max_corrupt_fraction" in line and "FOLDER/run/quarantine.parquet" in line


def test_two_runs_of_different_configurations(fgray: CommandLine) -> None:
    (fgray.folder / "run").mkdir()
    (fgray.folder / "run/run.json").write_text('{"fingerprint": "another"}')
    assert fgray.refusal() == "this output holds a run of another configuration [FOLDER/run]: choose another output, or remove that folder"


def test_a_folder_that_is_no_run(fgray: CommandLine) -> None:
    assert "FOLDER/data" in fgray.refusal(str(fgray.data), command="report")


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.s3
def test_wrong_credentials(fgray: CommandLine, juicefs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = juicefs_server.new_bucket()
    for name, value in {**juicefs_server.environment, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}.items():
        monkeypatch.setenv(name, value)
    line = fgray.refusal("--output", f"s3://{bucket}/run")
    assert "refused the credentials" in line and f"s3://{bucket}" in line
    assert "not-the-secret" not in line


@pytest.mark.s3
def test_missing_bucket(fgray: CommandLine, juicefs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in juicefs_server.environment.items():
        monkeypatch.setenv(name, value)
    line = fgray.refusal("--set", "data.root=s3://no-such-bucket/spec")
    assert "no-such-bucket" in line and "bucket" in line.partition(":")[0]


@pytest.mark.s3
def test_unreachable_bucket(fgray: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    line = fgray.refusal("--set", "data.root=s3://bucket/spec")
    assert "does not answer" in line and "check AWS_ENDPOINT_URL and the network" in line


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is full as soon as something is written."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        (place / "filler").write_bytes(b"1" * (56 << 10))
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk(fgray: CommandLine, tiny_disk: Path) -> None:
    line = fgray.refusal("--output", str(tiny_disk / "run"))
    assert line.startswith("the disk is full [FOLDER/disk/run/")
    assert ": free some space" in line
