"""Mines hard negatives on a cluster: python jobs/mine.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    result = fgray.mine(fgray.load_config(sys.argv[1], sys.argv[2:]))
    print(f"report: {result.report}")
