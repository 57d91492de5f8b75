"""What the engine does for text negatives: parse captions, generate negatives, score texts; each result is kept by its content."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fgray.embedding.compute import Compute, device_name, joint_numerics
from fgray.engine.cluster import cluster
from fgray.engine.progress import Progress
from fgray.engine.run import run_units
from fgray.engine.stages import Arrays, Chunk, Stage, StageFunction
from fgray.engine.store import Results, ResultStore
from fgray.engine.units import ID_TYPE, item_id, make_units, missing_items
from fgray.models.fingerprint import digest_of
from fgray.text_negatives.causal import LOGLIK, ScoreTexts
from fgray.text_negatives.generator import Generator, MaskFiller, Negative, Parsed, Token, Tools, build_generator
from fgray.text_negatives.language import Language
from fgray.text_negatives.language_model import LanguageModelSource
from fgray.text_negatives.vocabulary import Vocabulary
from fgray.text_negatives.wordnet import load_wordnet

PARSE, GENERATE = "parse", "text_negatives"  # request kinds; the third is LOGLIK
FILLED_ROWS = 8  # captions of a unit whose gaps a language model on a CPU fills: a killed worker shall cost seconds


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator and all that its negatives depend on besides the caption; picklable.

    Attributes:
        label: its name in reports; a number tells two of one name apart.
        name, options: what `build_generator` takes.
        seed, upstream: as in `Tools`.
        vocabulary: where it needs one.
        filler: where it needs one.
        parser: fingerprint of the pipeline whose parses it reads.
    """

    label: str
    name: str
    options: dict[str, Any]
    seed: int
    upstream: bool
    vocabulary: Vocabulary | None
    filler: LanguageModelSource | None
    parser: str

    def build(self) -> Generator:
        """Return the generator."""
        return build_generator(self.name, self.options)

    def source(self) -> str:
        """Return what the negatives file says of their origin: the generator with its options."""
        return self.name + (" " + json.dumps(self.options, sort_keys=True) if self.options else "")

    def fingerprint(self) -> str:
        """Return a digest of everything that a caption's negatives depend on, the rules' own code included."""
        generator = self.build()
        return digest_of(
            {
                "generator": self.name,
                "options": generator.model_dump(mode="json"),
                "code": _code_digest(inspect.getsourcefile(type(generator)) or ""),
                "seed": self.seed,
                "upstream": self.upstream,
                "parser": self.parser,
                "wordnet": load_wordnet().fingerprint,
                "vocabulary": self.vocabulary.fingerprint if self.vocabulary else None,
                "filler": self.filler.fingerprint() if self.filler else None,
            }
        )


AFTERWARDS = ("run.py", "blind.py", "refine.py", "collect.py", "wordnet_builder.py")
"""Modules of this package that no negative depends on."""


def _code_of(name: str) -> str:
    """Return a hash of one module of this package."""
    return hashlib.sha256((resources.files("fgray.text_negatives") / name).read_bytes()).hexdigest()


@cache
def _code_digest(module: str) -> str:
    """Return a hash of this package's code and of the generator's own module: a rule that is mended makes other negatives."""
    digest = hashlib.sha256(Path(module).read_bytes())
    folder = resources.files("fgray.text_negatives")
    for file in sorted((*folder.iterdir(), *(folder / "data").iterdir()), key=lambda file: file.name):
        if file.is_file() and file.name.endswith((".py", ".yaml")) and file.name not in AFTERWARDS:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@dataclass
class Engine:
    """Where the work is done and kept.

    Attributes:
        store_uri: the result store.
        compute: resolved workers and device.
        unit_rows: items of a unit, as configured; None where that is left to fgray.
        items: (kind, item ids) of everything that was asked for.
        classes: numerics classes of the parts, as far as the driver cannot know them.
    """

    store_uri: str
    compute: Compute
    unit_rows: int | None
    items: list[tuple[str, pa.Array]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)

    def parse(self, language: Language, texts: Sequence[str]) -> tuple[list[Parsed | None], list[str | None]]:
        """Return each caption's parse, None where that failed, and why it did."""
        items = _items(PARSE, language.fingerprint, texts, [text.encode() for text in texts])
        stage = self._stage("parse", partial(_ParseTexts, language.pipeline), False)
        found = self._answer(PARSE, language.fingerprint, items, stage, self.compute.unit_rows)
        values = found.columns.get("value", [""] * len(texts))
        return [from_json(value) if value else None for value in values], found.errors

    def generate(self, spec: GeneratorSpec, captions: Sequence[Parsed]) -> tuple[list[list[Negative]], list[str | None]]:
        """Return each caption's negatives, none where that failed, and why it did."""
        fingerprint = spec.fingerprint()
        texts = [to_json(caption) for caption in captions]
        contents = [json.dumps([caption.text, sorted(caption.mentioned)]).encode() for caption in captions]
        items = _items(GENERATE, fingerprint, texts, contents)
        on_cpu = not self.compute.device.startswith("cuda")
        rows = FILLED_ROWS if spec.filler and on_cpu else self.compute.unit_rows
        stage = self._stage("generate", partial(_Generate, spec, self.compute.device), spec.filler is not None)
        found = self._answer(GENERATE, fingerprint, items, stage, rows)
        values = found.columns.get("value", [""] * len(texts))
        return [[Negative(**one) for one in json.loads(value or "[]")] for value in values], found.errors

    def score(self, judge: LanguageModelSource, texts: Sequence[str]) -> Results:
        """Return ``total`` and ``tokens`` of each text."""
        code = [_code_of(name) for name in ("causal.py", "language_model.py")]
        fingerprint = digest_of({"model": judge.fingerprint(), "code": code})
        items = _items(LOGLIK, fingerprint, texts, [text.encode() for text in texts])
        stage = self._stage("language model", partial(ScoreTexts, judge, self.compute.device), True)
        return self._answer(LOGLIK, fingerprint, items, stage, self.compute.unit_rows)

    def _stage(self, name: str, build: Any, has_model: bool) -> Stage:
        """Return a stage; only one with a language model goes to GPUs."""
        on_gpu = self.compute.device.startswith("cuda")
        workers = self.compute.workers if has_model or not on_gpu else self.compute.decode_workers
        threads = self.compute.threads
        told = partial(_machine_numerics, self.compute.device)
        return Stage(name, build, workers=workers, cpus=threads, gpus=1 if on_gpu and has_model else 0, threads=threads, numerics=told)

    def _answer(self, kind: str, fingerprint: str, items: pa.Table, stage: Stage, rows: int) -> Results:
        """Compute what the store lacks, then read everything back."""
        store = ResultStore(self.store_uri, fingerprint)
        ids = items["item_id"].combine_chunks()
        self.items.append((kind, ids))
        missing = missing_items(items, store.stored_ids(kind))
        units = make_units(kind, missing, self.unit_rows or rows)
        progress = Progress(len(units), missing.num_rows, [stage], items.num_rows - missing.num_rows, task=stage.name)
        if units:
            with progress:
                run_units(units, [stage], store, self._told(), self.compute.runner, progress)
        if cluster() is not None:
            self.classes += [one for one in store.numerics(kind) if one not in self.classes]
        return store.read(kind, ids)

    def numerics(self) -> dict[str, Any]:
        """Return the numerics class of the language models: equal ones give equal bytes."""
        return self._told() if cluster() is None else joint_numerics(self._told(), self.classes)

    def _told(self) -> dict[str, Any]:
        facts = {"dtype": "fp32", "threads": self.compute.threads}
        return facts if cluster() is not None else {**_machine_numerics(self.compute.device), **facts}


def _machine_numerics(device: str) -> dict[str, Any]:
    return {"device": device_name(device), **{name: version(name) for name in ("spacy", "torch", "transformers")}}


def _items(kind: str, fingerprint: str, texts: Sequence[str], contents: Sequence[bytes]) -> pa.Table:
    ids = [item_id(kind, fingerprint, content) for content in contents]
    return pa.table({"item_id": pa.array(ids, ID_TYPE), "text": pa.array(list(texts), pa.string())})


class _ParseTexts(StageFunction):
    def __init__(self, pipeline: str) -> None:
        self._language = Language(pipeline)

    def __call__(self, chunk: Chunk) -> Arrays:
        parsed = self._language.parse(chunk.items["text"].to_pylist())
        return {"value": np.array([to_json(caption) for caption in parsed], object)}


class _Generate(StageFunction):
    def __init__(self, spec: GeneratorSpec, device: str) -> None:
        self._generator = spec.build()
        self._tools = Tools(spec.seed, spec.upstream, load_wordnet(), spec.vocabulary, _filler(spec.filler, device))

    def __call__(self, chunk: Chunk) -> Arrays:
        captions = [from_json(text) for text in chunk.items["text"].to_pylist()]
        made = self._generator.generate(captions, self._tools)
        texts = [json.dumps([asdict(negative) for negative in negatives], ensure_ascii=False) for negatives in made]
        return {"value": np.array(texts, object)}


def _filler(source: LanguageModelSource | None, device: str) -> MaskFiller | None:
    if source is None:
        return None
    from fgray.text_negatives.fill_mask import open_filler

    return open_filler(source.load(device))


def to_json(caption: Parsed) -> str:
    """Return a parse as JSON; equal parses give equal texts."""
    tokens = [[t.text, t.lemma, t.pos, t.tag, t.dep, t.head, t.start] for t in caption.tokens]
    return json.dumps([caption.text, tokens, caption.chunks, sorted(caption.mentioned)], ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Parsed:
    """Return the parse that `to_json` wrote."""
    caption, tokens, chunks, mentioned = json.loads(text)
    return Parsed(caption, tuple(Token(*token) for token in tokens), tuple((a, b) for a, b in chunks), frozenset(mentioned))
