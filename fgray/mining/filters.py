"""Filters against false negatives: what a filter is, the registry, and chains of them.

The filters that stand on scores and ranks are named as sentence-transformers names the arguments of
``mine_hard_negatives``; where one differs from its namesake, its docstring says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from fgray.config.schema import Direction, MineJob, NamedConfig
from fgray.errors import ConfigError, did_you_mean
from fgray.mining.candidates import Candidates, Sides
from fgray.mining.resources import Resources
from fgray.registry import Registry

WITHOUT_POSITIVE: tuple[Direction, ...] = ("image_to_image", "text_to_text")
"""Directions whose anchors have no positive of the corpus' kind."""


class Filter(BaseModel, ABC):
    """Decides which candidates may stay; its fields are its options, the first line of its docstring is its meaning.

    Attributes:
        CURVES: option -> thresholds at which an audit draws its price; empty where there is nothing to turn.
        THINS: it drops by place, whatever the candidate is; an audit counts what it drops as neither caught nor lost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    CURVES: ClassVar[Mapping[str, Sequence[float]]] = {}
    THINS: ClassVar[bool] = False

    @abstractmethod
    def keep(self, candidates: Candidates, sides: Sides, resources: Resources) -> npt.NDArray[np.bool_]:
        """Return which candidates stay, bool [m].

        A row of candidates must be whole (all that are left of it), but which rows come together makes no difference.
        """

    @property
    def needs_positive(self) -> bool:
        """Return whether it compares with the score of a positive."""
        return False

    def check(self, sides: Sides) -> None:
        """Refuse sides that lack what it looks at, before anything is embedded or searched.

        Raises:
            DataError: they do.
        """
        return

    def curve(self, direction: Direction) -> dict[str, list[tuple[float, Self]]]:
        """Return option -> (threshold, this filter with that option alone in force), for options that work in a direction."""
        off: dict[str, Any] = dict.fromkeys(self.CURVES)
        series = {
            option: [(float(value), self.model_copy(update={**off, option: value})) for value in values]
            for option, values in self.CURVES.items()
        }
        return {option: points for option, points in series.items() if not (direction in WITHOUT_POSITIVE and points[0][1].needs_positive)}


FILTERS: Registry[type[Filter]] = Registry(
    "filter",
    {
        "range_min": "fgray.mining.score_filters:RangeMin",
        "range_max": "fgray.mining.score_filters:RangeMax",
        "min_score": "fgray.mining.score_filters:MinScore",
        "max_score": "fgray.mining.score_filters:MaxScore",
        "absolute_margin": "fgray.mining.score_filters:AbsoluteMargin",
        "relative_margin": "fgray.mining.score_filters:RelativeMargin",
        "num_negatives": "fgray.mining.score_filters:NumNegatives",
        "same_image": "fgray.mining.link_filters:SameImage",
        "same_caption": "fgray.mining.link_filters:SameCaption",
        "other_captions": "fgray.mining.link_filters:OtherCaptions",
        "same_label": "fgray.mining.link_filters:SameLabel",
        "near_duplicate_images": "fgray.mining.near_duplicates:NearDuplicateImages",
        "near_duplicate_texts": "fgray.mining.near_duplicates:NearDuplicateTexts",
        "second_model": "fgray.mining.second_model:SecondModel",
    },
)

Chain = Sequence[tuple[str, Filter]]


def build_filters(configs: Sequence[NamedConfig], directions: Sequence[Direction]) -> list[tuple[str, Filter]]:
    """Return (name, filter) of each configured filter, in order.

    Raises:
        ConfigError: a filter or option is unknown, a value is wrong, a filter stands twice, one compares with positives in a
            direction that has none, or no candidate could pass them all.
    """
    chain: list[tuple[str, Filter]] = []
    for number, config in enumerate(configs):
        where = f"filters.{number}"
        built = build_filter(config, where)
        if any(name == config.name for name, _ in chain):
            raise ConfigError(f"filter '{config.name}' stands twice", where=where, fix="keep one of them")
        if chain and chain[-1][0] == "num_negatives":
            what = f"filter '{config.name}' stands after num_negatives, which would leave fewer negatives than that"
            raise ConfigError(what, where=where, fix="let num_negatives come last")
        for direction in directions:
            if built.needs_positive and direction in WITHOUT_POSITIVE:
                what = f"filter '{config.name}' compares with the positive's score, and {direction} has no positives"
                raise ConfigError(what, where=where, fix="remove it, or mine that direction in a job of its own")
        chain.append((config.name, built))
    _refuse_empty(chain)
    return chain


def checked_chain(job: MineJob) -> list[tuple[str, Filter]]:
    """Return a job's filters.

    Raises:
        ConfigError: what `build_filters` finds, the chain would mine the positives themselves, a direction stands twice, or the search
            has options that nothing reads.
    """
    for number, direction in enumerate(job.directions):
        if direction in job.directions[:number]:
            raise ConfigError(f"direction '{direction}' stands twice", where=f"directions.{number}", fix="keep one of them")
    if job.search.options and job.search.index == "exact":
        what = f"the exact search has no option '{next(iter(job.search.options))}'"
        raise ConfigError(what, where="search.options", fix="remove it, or say index: faiss")
    chain = build_filters(job.filters, job.directions)
    if all(name not in ("same_image", "other_captions") for name, _ in chain):
        what = "without same_image the anchors' own positives would be mined as negatives"
        raise ConfigError(what, where="filters", fix="begin the list with same_image")
    return chain


def build_filter(config: NamedConfig, where: str) -> Filter:
    """Return the filter that a section names.

    Args:
        config: its name and options.
        where: where the section stands.

    Raises:
        ConfigError: there is no such filter, or it has no such option.
    """
    kind = FILTERS.get(config.name) if config.name in FILTERS.names() else None
    if kind is None:
        raise ConfigError(f"no filter is called '{config.name}'", where=where, fix=did_you_mean(config.name, FILTERS.names()))
    try:
        return kind(**config.options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (where, *first["loc"]))
        fix = f"see fgray list filters {config.name}"
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            what = f"filter '{config.name}' has no option '{first['loc'][0]}'"
            raise ConfigError(what, where=place, fix=did_you_mean(str(first["loc"][0]), kind.model_fields)) from None
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise ConfigError(f"filter '{config.name}' needs the option '{first['loc'][0]}'", where=where, fix=fix) from None
        raise ConfigError(f"wrong option for {config.name} ({first['msg']})", where=place, fix=fix) from None


def _refuse_empty(chain: Chain) -> None:
    """Refuse pairs of bounds that nothing lies between."""
    options = {name: getattr(built, "value", None) for name, built in chain}
    names = list(options)
    low, high = options.get("min_score"), options.get("max_score")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"no candidate passes min_score {low} and max_score {high}", where="filters", fix="let min_score be the smaller")
    skip, stop = options.get("range_min"), options.get("range_max")
    if skip is not None and stop is not None and names.index("range_max") < names.index("range_min") and skip >= stop:
        what = f"no candidate passes range_max {stop} and then range_min {skip}"
        raise ConfigError(what, where="filters", fix="let range_min be the smaller")


def run_chain(filters: Chain, candidates: Candidates, sides: Sides, resources: Resources) -> tuple[Candidates, dict[str, int]]:
    """Apply the filters in order, each to what the ones before it kept.

    Args:
        filters: what `build_filters` returned.
        candidates: a block of whole rows.
        sides: what the candidates' numbers point into.
        resources: what filters need to know about the sides.

    Returns:
        The survivors, and filter name -> number of candidates that it dropped, in the order of the chain.
    """
    dropped = {}
    for name, built in filters:
        keep = built.keep(candidates, sides, resources)
        dropped[name] = len(candidates) - int(np.count_nonzero(keep))
        candidates = candidates.take(keep)
    return candidates, dropped


def reasons(candidates: Candidates, filters: Chain, searched: int) -> list[str]:
    """Return why each survivor was kept, in one clause.

    Args:
        candidates: survivors of the chain.
        filters: the chain.
        searched: number of candidates that the search returned per anchor.
    """
    judges = [name for name, _ in filters if name != "num_negatives"]
    passed = "; passed " + ", ".join(judges) if judges else ""
    return [
        f"rank {rank} of {searched}{_distance(margin)}{passed}"
        for rank, margin in zip(candidates.rank.tolist(), candidates.margin.tolist(), strict=True)
    ]


def _distance(margin: float) -> str:
    if np.isnan(margin):
        return ""
    return f", {abs(margin):.3f} {'below' if margin >= 0 else 'above'} its positive"


def describe(kind: type[Filter]) -> str:
    """Return a filter's meaning in one line."""
    return (kind.__doc__ or "").strip().splitlines()[0]
