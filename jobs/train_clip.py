"""Fine-tunes a dual encoder on a cluster: python jobs/train_clip.py CONFIG [A.B=VALUE ...]."""

import sys

import fgray

if __name__ == "__main__":
    result = fgray.train(fgray.load_config(sys.argv[1], sys.argv[2:]))
    print(f"report: {result.report}")
