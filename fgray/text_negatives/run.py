"""The text_negatives job: parse captions, edit them, judge the edits blind, write negatives and report."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from rich.table import Table

from fgray.benchmarks.pairs import load_pairs
from fgray.config.schema import StatsConfig, TextNegativesJob
from fgray.data.negatives import NAME, to_parquet
from fgray.data.pairs import PairSet
from fgray.embedding import resolve_compute
from fgray.engine.lease import open_run
from fgray.errors import ConfigError, DataError, ModelError, RunError
from fgray.models.fingerprint import digest_of
from fgray.report.text_negatives import write_text_negatives_report
from fgray.runs import ITEM_SCHEMA, QUARANTINE_SCHEMA, RunFolder, describe_job
from fgray.text_negatives.blind import Likelihood, blind_accuracy
from fgray.text_negatives.collect import Made, blind_pairs, counts, refined, rows, with_plausibility
from fgray.text_negatives.generator import Parsed, build_generator
from fgray.text_negatives.language import Language
from fgray.text_negatives.language_model import LanguageModelSource
from fgray.text_negatives.vocabulary import Vocabulary, build_vocabulary, with_mentions
from fgray.text_negatives.work import Engine, GeneratorSpec

NOT_MEASURED = "not measured: no causal language model is configured (language_model or plausibility)"
Failures = dict[str, str]  # caption -> "stage: reason"


@dataclass(frozen=True)
class TextNegativesResult:
    """A finished run.

    Attributes:
        uri: its run folder, with negatives.parquet.
        report: address of report.html.
        counts: generator -> type -> made, valid, refined_away, invalid by reason.
        blind: entries of metrics.json by name; empty where blind accuracy was not measured.
        said: how blind accuracy was measured, or why it was not.
    """

    uri: str
    report: str
    counts: dict[str, dict[str, dict[str, Any]]]
    blind: dict[str, dict[str, Any]]
    said: str

    def table(self) -> Table:
        """Return counts and blind accuracy for the console."""
        said = f"blind accuracy: {self.said}"
        table = Table(title=f"negatives in {self.uri}/{NAME}", title_justify="left", caption=said, caption_justify="left")
        for column in ("generator", "type", "made", "valid", "kept", "blind accuracy"):
            table.add_column(column, justify="left" if column in ("generator", "type") else "right")
        for generator, types in self.counts.items():
            for kind, entry in types.items():
                numbers = (entry["made"], entry["valid"], entry["valid"] - entry["refined_away"])
                blind = _shown(self.blind.get(f"blind/{generator}/{kind}/accuracy"))
                table.add_row(generator, kind, *(f"{number:,}" for number in numbers), blind)
        if self.blind:
            table.add_row("all", "", "", "", "", _shown(self.blind["blind/accuracy"]))
        return table


def _shown(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    low, high = entry["ci95"]
    return f"{entry['value']:.1%} [{low:.1%}, {high:.1%}]"


def make_text_negatives(job: TextNegativesJob, source: Mapping[str, Any] | None = None) -> TextNegativesResult:
    """Run a text_negatives job, or finish one that was interrupted: what the store holds is not computed again.

    Args:
        job: the configuration.
        source: the configuration as it was written, with ``${ENV}`` unresolved, for run.json; default: the job itself.

    Raises:
        ConfigError: a generator, pipeline or language model is unknown or missing.
        RunError: another run holds the output, it belongs to another configuration, or too many captions failed.
        FgrayError: whatever else is wrong with data, model or storage.
    """
    with open_run(job) as folder:
        return _Run(job, source, folder).finish()


class _Run:
    def __init__(self, job: TextNegativesJob, source: Mapping[str, Any] | None, folder: RunFolder) -> None:
        self.job, self.folder = job, folder
        for config in job.generators:  # refused before anything heavy is loaded
            generator = build_generator(config.name, config.options)
            if generator.needs_filler and job.language_model is None:
                fix = "add language_model: {kind: causal}, or a fill-mask model: {kind: fill_mask, path: FOLDER}"
                raise ConfigError(f"generator {config.name} needs a language model", where="language_model", fix=fix)
        self.language = Language(job.pipeline)
        self.filler = LanguageModelSource(job.language_model) if job.language_model is not None else None
        judged_by = "language_model" if job.plausibility is None else "plausibility"
        self.judge = LanguageModelSource(job.judge, judged_by) if job.judge is not None else None
        previous = folder.read_json(RunFolder.RUN).get("compute") if folder.storage.exists(RunFolder.RUN) else None
        compute = resolve_compute(job.compute, None, previous)
        unit_rows = None if job.compute.unit_rows == "auto" else job.compute.unit_rows
        self.engine = Engine(job.store_uri, compute, unit_rows)
        self.run = describe_job(job, source) | {"compute": asdict(compute), "model": self._card()}
        self.failures: Failures = {}
        self.unscored: Failures = {}  # text -> why the judge has no likelihood of it

    def _card(self) -> dict[str, Any]:
        card: dict[str, Any] = {"name": self.job.pipeline, "kind": "text_negatives", "pipeline": self.language.fingerprint}
        models = {"filler": self.filler, "judge": self.judge}
        card |= {name: {**model.card(), "fingerprint": model.fingerprint()} for name, model in models.items() if model is not None}
        return {"card": card, "fingerprint": digest_of(card)}

    def finish(self) -> TextNegativesResult:
        """Do the whole job."""
        job, start = self.job, time.monotonic()
        pairs = load_pairs(job.pairs, job.data.root, job.store_uri)
        texts = _drawn(pairs.texts, 0, job.limit)
        if not texts:
            raise DataError("the pairs hold no captions", where="pairs", fix="name pairs with texts")
        self.folder.write_json(RunFolder.RUN, self.run)
        captions, vocabulary = self._parse(pairs, texts)
        made = self._generate(captions, vocabulary)
        quarantine = self._quarantine(len(texts))
        made, likelihoods = self._judged(made)
        before = blind_accuracy(found, StatsConfig()) if (found := blind_pairs(made, likelihoods)) else {}
        kept = refined(made, job.seed) if job.refine else made
        blind = (blind_accuracy(found, StatsConfig()) if (found := blind_pairs(kept, likelihoods)) else {}) if job.refine else before

        facts = {"config": self.run["fingerprint"], "model": self.run["model"]["fingerprint"], "data": _fingerprint(pairs)}
        self.folder.storage.write_bytes(NAME, to_parquet(rows(kept), facts))
        tally = counts(made, kept)
        content: dict[str, Any] = {"fingerprints": facts, "text_negatives": tally, "metrics": blind, "captions": len(texts)}
        content["blind"] = self._said(len({pair.anchor for pair in blind_pairs(made, likelihoods)}))
        if job.refine and before:
            content["before_refinement"] = before
        self._close(quarantine, start)
        self.folder.write_json(RunFolder.METRICS, content)
        return TextNegativesResult(self.folder.uri, write_text_negatives_report(self.folder), tally, blind, content["blind"])

    def _parse(self, pairs: PairSet, texts: Sequence[str]) -> tuple[list[Parsed], Vocabulary | None]:
        """Parse the captions, and those whose words count: of the same images, or all where a generator needs a vocabulary."""
        images: dict[str, list[str]] = {}
        described: dict[str, list[str]] = {}
        for image, text in zip(pairs.table["image"].to_pylist(), pairs.table["text"].to_pylist(), strict=True):
            if image is not None and text is not None:
                images.setdefault(text, []).append(image)
                described.setdefault(image, []).append(text)
        needs_all = any(build_generator(config.name, config.options).needs_vocabulary for config in self.job.generators)
        beside = {other for text in texts for image in images.get(text, ()) for other in described[image]} | set(texts)
        asked = pairs.texts if needs_all else sorted(beside)
        parsed, errors = self.engine.parse(self.language, asked)
        wanted = set(texts)
        self.failures |= {text: error for text, error in zip(asked, errors, strict=True) if error and text in wanted}
        good = [caption for caption in parsed if caption is not None]
        known = with_mentions(good, [images.get(caption.text, []) for caption in good])
        return [caption for caption in known if caption.text in wanted], build_vocabulary(good) if needs_all else None

    def _generate(self, captions: Sequence[Parsed], vocabulary: Vocabulary | None) -> list[Made]:
        """Return the negatives of all generators, caption by caption."""
        by_caption: dict[str, list[Made]] = {caption.text: [] for caption in captions}
        seen: Counter[str] = Counter()
        for config in self.job.generators:
            seen[config.name] += 1
            label = config.name if seen[config.name] == 1 else f"{config.name}-{seen[config.name]}"
            generator = build_generator(config.name, config.options)
            spec = GeneratorSpec(
                label,
                config.name,
                config.options,
                self.job.seed,
                self.job.upstream,
                vocabulary if generator.needs_vocabulary else None,
                self.filler if generator.needs_filler else None,
                self.language.fingerprint,
            )
            found, errors = self.engine.generate(spec, captions)
            for caption, negatives, error in zip(captions, found, errors, strict=True):
                if error:
                    self.failures[caption.text] = error
                source = spec.source()
                by_caption[caption.text] += [Made(caption.text, label, source, n, negative) for n, negative in enumerate(negatives)]
        return [one for text, several in by_caption.items() if text not in self.failures for one in several]

    def _judged(self, made: Sequence[Made]) -> tuple[list[Made], dict[str, Likelihood]]:
        """Return the negatives with their plausibility, and the log-likelihood of every text that was scored.

        Raises:
            ModelError: there are valid negatives, and not one of their texts could be scored.
        """
        if self.judge is None:
            return list(made), {}
        valid = [one for one in made if one.negative.valid]
        chosen = set(_drawn({one.caption for one in valid}, self.job.seed, self.job.plausibility_limit))
        texts = sorted(chosen | {one.negative.text for one in valid if one.caption in chosen})
        found = self.engine.score(self.judge, texts)
        likelihoods = {
            text: Likelihood(float(found.columns["total"][row]), int(found.columns["tokens"][row]))
            for row, text in enumerate(texts)
            if found.errors[row] is None
        }
        self.unscored = {text: error for text, error in zip(texts, found.errors, strict=True) if error}
        if texts and not likelihoods:
            reason = next(iter(self.unscored.values())).partition(": ")[2]
            raise ModelError(f"no text could be scored ({reason})", where="plausibility", fix="name a model that takes longer texts")
        judged = with_plausibility([one for one in made if one.caption in chosen], likelihoods)
        places = {(one.caption, one.generator, one.number): one for one in judged}
        return [places.get((one.caption, one.generator, one.number), one) for one in made], likelihoods

    def _said(self, captions: int) -> str:
        """Return what the report says about blind accuracy."""
        if self.judge is None:
            return NOT_MEASURED
        said = f"measured with {self.judge.name} on the negatives of {captions:,} captions"
        if self.unscored:
            said += (
                f", without {len(self.unscored):,} texts that it could not score ({next(iter(self.unscored.values())).partition(': ')[2]})"
            )
        return said + (", the model that refined them: one half is its own doing, another model may do better" if self.job.refine else "")

    def _quarantine(self, requested: int) -> pa.Table:
        lines = []
        for text, error in sorted(self.failures.items()):
            stage, _, reason = error.partition(": ")
            lines.append({"benchmark": "", "key": text, "shard": "", "stage": stage, "error": reason})
        table = pa.Table.from_pylist(lines, schema=QUARANTINE_SCHEMA)
        self.folder.write_table(RunFolder.QUARANTINE, table)
        if table.num_rows > self.job.data.max_corrupt_fraction * requested:
            what = f"{table.num_rows} of {requested} captions failed, more than data.max_corrupt_fraction allows"
            raise RunError(
                what, where=f"{self.folder.uri}/{RunFolder.QUARANTINE}", fix="see that file; raise the limit to go on without them"
            )
        return table

    def _close(self, quarantine: pa.Table, start: float) -> None:
        kinds = [kind for kind, ids in self.engine.items for _ in range(len(ids))]
        columns = {"kind": pa.array(kinds, pa.string()), "item_id": pa.concat_arrays([ids for _, ids in self.engine.items])}
        self.folder.write_table(RunFolder.ITEMS, pa.table(columns, ITEM_SCHEMA))
        self.run |= {"numerics": self.engine.numerics(), "quarantined": quarantine.num_rows}
        self.run["timing"] = {"seconds": round(time.monotonic() - start, 3)}
        self.folder.write_json(RunFolder.RUN, self.run)


def _drawn(texts: Iterable[str], seed: int, count: int | None) -> list[str]:
    """Return that many texts, sorted; which ones depends on their hashes, so a larger draw holds the smaller one."""
    ordered = sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())
    return sorted(ordered[:count])


def _fingerprint(pairs: PairSet) -> str:
    """Return a hash of images' names and captions."""
    digest = hashlib.sha256()
    for row in pairs.table.to_pylist():
        digest.update(repr(sorted(row.items())).encode())
    return digest.hexdigest()
