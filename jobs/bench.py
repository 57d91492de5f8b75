"""Runs one of fgray's own benchmarks on a cluster: python jobs/bench.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray
from fgray.cli_output import result
from fgray.launch.entry import job_process

if __name__ == "__main__":
    with job_process():
        result(fgray.submit(sys.argv[1], sys.argv[2:]))
