"""Runs one of fgray's own benchmarks on a cluster: python jobs/bench.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    for row in fgray.submit(sys.argv[1], sys.argv[2:]).rows:
        print(row)
