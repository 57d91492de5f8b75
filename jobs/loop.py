"""Runs a loop: diagnose, mine, train, prove on a cluster: python jobs/loop.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    result = fgray.loop(fgray.load_config(sys.argv[1], sys.argv[2:]))
    print(f"report: {result.report}")
    sys.exit(result.exit_code)
