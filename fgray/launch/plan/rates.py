"""How long a worker takes for one item at each stage: by formula and device table, or as earlier runs measured it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fgray.embedding import IMAGE, REGION, TEXT
from fgray.launch.plan.architecture import Architecture
from fgray.launch.plan.calibration import Calibration, rate_key
from fgray.launch.plan.devices import INFERENCE_EFFICIENCY
from fgray.launch.plan.place import Place

STAGES = ("decode", "model", "commit")

# One core decodes 537 to 726 JPEGs of 110 KB a second with Pillow, and 3,400 of 12 KB; a line through both:
_DECODE_SECONDS, _DECODE_SECONDS_PER_BYTE = 1.5e-4, 1.3e-8
_S3_STREAM, _DISK_STREAM = 80e6, 1e9  # bytes per second of one reader
_S3_LATENCY, _DISK_LATENCY = 0.15, 0.005  # seconds of one request
_CALL_SECONDS = {True: 5e-5, False: 2e-4}  # per item around the arithmetic, on a GPU or a CPU: small models are bound by it
MEAN_IMAGE_BYTES = 110_000  # where the index does not say: a photograph of 500 x 375 px


class Asked(NamedTuple):
    """What is to be computed of one request kind.

    Attributes:
        kind: request kind.
        items: that are missing.
        bytes: encoded bytes of one of them, on average; 0 for texts.
    """

    kind: str
    items: int
    bytes: float


@dataclass(frozen=True)
class Model:
    """What rates depend on.

    Attributes:
        name: of the architecture, as its card says.
        dtype: arithmetic of the forward pass.
        threads: of a worker on a CPU.
        architecture: None for a model of which nothing is known before it is loaded.
        dimension: of its embeddings, for the size of the results.
    """

    name: str
    dtype: str
    threads: int
    architecture: Architecture | None

    @property
    def dimension(self) -> int:
        """Numbers of one embedding; 512 where it is not known."""
        return self.architecture.dimension if self.architecture is not None else 512


class Rate(NamedTuple):
    """Seconds of one worker for one item.

    Attributes:
        seconds: None where nothing is known.
        runs: earlier runs that measured it; 0: by formula.
    """

    seconds: float | None
    runs: int


def rates_of(asked: Asked, model: Model, place: Place, unit_rows: int, on_s3: bool, calibration: Calibration) -> dict[str, Rate]:
    """Return the rate of each stage for one request kind."""
    found = {}
    for stage, by_formula in formulas(asked, model, place, unit_rows, on_s3).items():
        known = None
        if (device := place.rates_of) is not None:  # the rates of all stages are kept by the model's device
            weight = weight_of(asked.kind, stage, asked.bytes)
            known = calibration.per_item(rate_key(device, model.name, model.dtype, model.threads), asked.kind, stage, weight)
        found[stage] = Rate(by_formula, 0) if known is None else Rate(*known)
    return found


def weight_of(kind: str, stage: str, encoded: float) -> float:
    """Return what a measured rate is proportional to: for decoding the formula's own value for that size of file."""
    return decode_seconds(encoded) if stage == "decode" and kind != TEXT else 1.0


def decode_seconds(encoded: float) -> float:
    """Return the seconds of one core for one picture of so many encoded bytes."""
    return _DECODE_SECONDS + _DECODE_SECONDS_PER_BYTE * (encoded or MEAN_IMAGE_BYTES)


def formulas(asked: Asked, model: Model, place: Place, unit_rows: int, on_s3: bool) -> dict[str, float | None]:
    """Return seconds per item and stage by the stated assumptions; None for the model stage where nothing is known of it."""
    latency, stream = (_S3_LATENCY, _S3_STREAM) if on_s3 else (_DISK_LATENCY, _DISK_STREAM)
    decode = 0.0
    if asked.kind != TEXT:
        encoded = asked.bytes or MEAN_IMAGE_BYTES
        decode = decode_seconds(encoded) + encoded / stream + latency / unit_rows
    commit = latency / unit_rows + 4 * model.dimension / stream
    return {"decode": decode, "model": _model_seconds(asked.kind, model, place), "commit": commit}


def _model_seconds(kind: str, model: Model, place: Place) -> float | None:
    if model.architecture is None or place.device is None:
        return None
    tower = model.architecture.text if kind == TEXT else model.architecture.image
    parallel = 1 if place.device.is_gpu else model.threads
    return tower.gflop / (place.device.gflops(model.dtype, INFERENCE_EFFICIENCY) * parallel) + _CALL_SECONDS[place.device.is_gpu]


def assumptions(place: Place, on_s3: bool) -> list[str]:
    """Return the assumptions of the formulas, one line each."""
    device = place.device
    speed = "nothing is known of this GPU"
    if device is not None:
        peak = f"{INFERENCE_EFFICIENCY:.0%} of {device.tflops16:g} TFLOP/s in 16 bits, {device.tflops32:g} in fp32"
        speed = peak if device.is_gpu else f"{device.gflops('fp32', 1):g} GFLOP/s per core"
        speed = f"{device.name}: {speed}"
    where = (
        f"S3: {_S3_LATENCY:g} s a request, {_S3_STREAM / 1e6:g} MB/s a reader" if on_s3 else f"disk: {_DISK_STREAM / 1e9:g} GB/s a reader"
    )
    decode = f"decode: {1000 * _DECODE_SECONDS:g} ms and {1e9 * _DECODE_SECONDS_PER_BYTE:g} ns a byte, one core"
    return [speed, decode, where]


__all__ = [
    "IMAGE",
    "REGION",
    "STAGES",
    "TEXT",
    "Asked",
    "Model",
    "Rate",
    "assumptions",
    "decode_seconds",
    "formulas",
    "rates_of",
    "weight_of",
]
