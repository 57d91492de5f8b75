"""An encoder that takes its time and notes every call, so that kills can be aimed and repeated work counted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

CALLS = "FGRAY_TEST_CALLS"  # folder of the notes: one file per process, one line per call
SECONDS = 0.15  # of every call
SIDE, WIDTH = 32, 512


class ChaosEncoder:
    image_size = SIDE

    def __init__(self, device: str) -> None:
        self.projection = np.random.default_rng(0).standard_normal((SIDE * SIDE * 3, WIDTH)).astype(np.float32)

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        self._note("image")
        return pixels.reshape(len(pixels), -1).astype(np.float32) @ self.projection

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        self._note("text")
        return np.stack([np.random.default_rng(list(text.encode()) or [0]).standard_normal(WIDTH) for text in texts])

    def _note(self, kind: str) -> None:
        with (Path(os.environ[CALLS]) / str(os.getpid())).open("a") as notes:
            notes.write(f"{kind}\n")
        time.sleep(SECONDS)
