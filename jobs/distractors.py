"""Mines the wrong options of multiple-choice questions on a cluster: python jobs/distractors.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    result = fgray.submit(sys.argv[1], sys.argv[2:])
    print(f"report: {result.report}")
