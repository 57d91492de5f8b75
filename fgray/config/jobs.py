"""Every job kind in one union: a YAML file is one of them; and the JSON schema of it for editors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from fgray.config.loop import LoopJob
from fgray.config.schema import BenchJob, DistractorsJob, EvalJob, MineJob, TextNegativesJob
from fgray.config.train import TrainClipJob

AnyJob = Annotated[EvalJob | MineJob | TextNegativesJob | DistractorsJob | TrainClipJob | LoopJob | BenchJob, Field(discriminator="job")]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors."""
    schema = TypeAdapter(AnyJob).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "fgray job"
    for job, keys in _NAMED.items():
        properties = schema["$defs"][job]["properties"]
        for key in keys:
            section = properties[key]
            if section.get("type") == "array":
                section["items"] = {"anyOf": [_NAME, section["items"]]}
            elif "anyOf" in section:
                section["anyOf"] = [_NAME, *section["anyOf"]]
            else:
                reference = {"$ref": section.pop("$ref")}
                section["anyOf"] = [_NAME, reference]
    return schema


_NAME = {"type": "string", "description": "a registered name"}
_NAMED = {
    "EvalJob": ["benchmarks"],
    "MineJob": ["pairs", "corpus", "filters", "disjoint_from"],
    "TextNegativesJob": ["pairs", "generators"],
    "DistractorsJob": ["classes"],
    "TrainClipJob": ["losses", "disjoint_from"],
    "Training": ["losses", "disjoint_from"],
    "TrainSource": ["pairs"],
    "SelectionConfig": ["benchmarks"],
    "Mining": ["pairs", "corpus", "filters", "disjoint_from"],
    "LoopJob": ["benchmarks"],
    "WiseFtConfig": ["benchmarks"],
}
"""Job -> keys under which a bare name may stand, see `bare_names`."""
