"""Three hosts that share an S3 store and nothing else; one is cut off in the middle, and the run ends as it does on one machine."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from fgray.storage import open_storage
from tests.integration.clusters import PROJECT, wait_for
from tests.integration.hosts import Host, hosts
from tests.integration.s3_servers import KEY, SECRET
from tests.integration.test_cluster_runs import evaluation, run, units_per_node
from tests.small_data import write_spec

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
PORT, DASHBOARD, S3 = 6379, 8265, 9005
PROGRAM = Path(sys.executable).parent

GATEWAY = f"""
mkdir -p /tmp/s3
juicefs format --storage file --bucket /tmp/s3/data/ --trash-days 0 sqlite3:///tmp/s3/meta.db fgray
exec juicefs gateway --multi-buckets --no-usage-report --cache-size 0 --metrics 127.0.0.1:9567 sqlite3:///tmp/s3/meta.db $ADDRESS:{S3}
"""
NODE = """
set -e
umask 077
mkdir -p "$HOME/.ray"
printf %s "$TOKEN" > "$HOME/.ray/auth_token"
unset TOKEN
ls -A "$CHECKOUT" > /tmp/checkout.txt
exec ray start --block --disable-usage-stats --node-ip-address=$ADDRESS --object-store-memory=150000000 "$@"
"""
# A bucket, the data and the results: this machine's own view of the store, from beside the first host.
COPY = """
import sys
from pathlib import Path
import pyarrow.fs
from tests.integration.s3_servers import KEY, SECRET
from fgray.storage import open_storage
action, endpoint, local, remote = sys.argv[1:]
store = pyarrow.fs.S3FileSystem(access_key=KEY, secret_key=SECRET, endpoint_override=endpoint, scheme="http", region="us-east-1",
                                allow_bucket_creation=True)
if action == "put":
    store.create_dir(remote.removeprefix("s3://").partition("/")[0])
    target = open_storage(remote)
    for path in Path(local).rglob("*"):
        if path.is_file():
            target.write_bytes(str(path.relative_to(local)), path.read_bytes())
elif action == "count":
    print(sum(info.path.rpartition("/")[2].startswith("part-") for info in open_storage(remote).list("store")))
else:
    source = open_storage(remote)
    for info in source.list():
        path = Path(local) / info.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes(info.path))
"""


def beside(host: Host, environment: dict[str, str], *words: str) -> str:
    command = host.reached_from_here([sys.executable, "-c", COPY, *words])
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_cluster(folder: Path, head: Host) -> Path:
    """Describe a cluster that somebody else has started."""
    node = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 2, "max_workers": 2}
    content = {
        "cluster_name": "hosts",
        "max_workers": 2,
        "provider": {
            "type": "external",
            "module": "none",
            "fgray": {"address": f"http://{head.address}:{DASHBOARD}", "dependencies": "image"},
        },
        "head_node_type": "head",
        "available_node_types": {"head": {"resources": {"CPU": 0}, "node_config": {}}, "worker": node},
    }
    path = folder / "hosts.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_one_of_three_hosts_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_spec(tmp_path / "data", cases=12)
    here = run(evaluation(data, tmp_path / "here", runner="serial"), tmp_path)
    token = secrets.token_hex(32)
    mine = tmp_path / "token"
    mine.touch(0o600)
    mine.write_text(token)
    with hosts(3) as (head, *others):
        endpoint = f"{head.address}:{S3}"
        s3 = {
            "AWS_ENDPOINT_URL": f"http://{endpoint}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        common = {
            **s3,
            "PATH": f"{PROGRAM}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_health_check_period_ms": "1000",  # the loss of a host is noticed within ten seconds
        }
        head.start(
            ["sh", "-c", GATEWAY],
            tmp_path / "s3.txt",
            {**common, "ADDRESS": head.address, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET},
        )
        laptop = {**os.environ, **s3, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(mine), "PYTHONPATH": str(PROJECT)}
        wait_for(lambda: _answers(head, endpoint), 60)
        bucket = f"s3://fgray-{secrets.token_hex(4)}"
        beside(head, laptop, "put", endpoint, str(data), f"{bucket}/data")

        start_head = ["--head", f"--port={PORT}", "--num-cpus=0", f"--dashboard-host={head.address}", f"--dashboard-port={DASHBOARD}"]
        for host, words in [(head, start_head), *((other, [f"--address={head.address}:{PORT}", "--num-cpus=2"]) for other in others)]:
            host.start(
                ["sh", "-c", NODE, "node", *words], tmp_path / f"{host.name}.txt", {**common, "ADDRESS": host.address, "TOKEN": token}
            )
            if host is head:
                wait_for(lambda: _answers(head, f"{head.address}:{DASHBOARD}"), 300)

        job = evaluation(data, tmp_path / "there")
        job |= {"data": {"root": f"{bucket}/data"}, "output": f"{bucket}/there"}
        (tmp_path / "there.yaml").write_text(yaml.safe_dump(job))
        monkeypatch.setenv("HOME", str(tmp_path))
        command = [sys.executable, "-m", "fgray", "submit", str(tmp_path / "there.yaml"), "--cluster", str(write_cluster(tmp_path, head))]
        log = tmp_path / "submit.txt"
        with log.open("wb") as output:
            environment = {**laptop, "HOME": str(tmp_path)}
            process = subprocess.Popen(head.reached_from_here(command), cwd=PROJECT, env=environment, stdout=output, stderr=output)
        try:
            wait_for(lambda: int(beside(head, laptop, "count", endpoint, "-", f"{bucket}/there")) >= 6, 600, process, log)
            others[1].cut_off()
            assert process.wait(900) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait()
        beside(head, laptop, "get", endpoint, str(tmp_path / "there"), f"{bucket}/there")

    there = tmp_path / "there"
    for name in ("metrics.json", "samples.parquet"):
        ours, theirs = (there / name).read_bytes(), (here / name).read_bytes()
        assert ours == theirs, name
    ids = [row for path in there.glob("store/*/*/part-*.parquet") for row in pq.read_table(path)["item_id"].to_pylist()]
    facts = json.loads((there / "run.json").read_text())
    assert len(ids) == len(set(ids)) == facts["items"]["requested"] == facts["items"]["scored"]
    nodes = units_per_node(there)
    assert {node.split()[0] for node in nodes} == {other.address for other in others}
    assert open_storage(str(there)).exists("report.html")


def _answers(host: Host, endpoint: str) -> bool:
    """Return whether somebody listens at an address of the hosts' network."""
    address, _, port = endpoint.partition(":")
    code = f"import socket; socket.create_connection(('{address}', {port}), 2)"
    return subprocess.run(host.reached_from_here([sys.executable, "-S", "-c", code]), capture_output=True).returncode == 0
