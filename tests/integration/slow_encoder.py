"""An encoder that takes its time, so that a node can be lost while it holds units; it travels with the job that names it."""

import time
import zlib

import numpy as np

SIDE, WIDTH, SECONDS = 256, 64, 0.8  # a unit is too large to travel beside its message: what is decoded lies on the node that decoded it


class SlowEncoder:
    image_size = SIDE

    def __init__(self, device: str) -> None:
        self.projection = np.random.default_rng(0).standard_normal((SIDE * SIDE * 3, WIDTH)).astype(np.float32)

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(SECONDS)
        return np.stack([picture.reshape(-1).astype(np.float32) @ self.projection for picture in pixels])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        time.sleep(SECONDS)
        return np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(WIDTH) for text in texts])
