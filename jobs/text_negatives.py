"""Makes negative captions on a cluster: python jobs/text_negatives.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    result = fgray.make_text_negatives(fgray.load_config(sys.argv[1], sys.argv[2:]))
    print(f"report: {result.report}")
