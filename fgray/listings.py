"""The public verbs that list what there is: benchmarks, models, metrics, filters, generators, losses."""

from __future__ import annotations

from typing import Any

from fgray.registry import Registry, options_of


def list_benchmarks(name: str | None = None) -> list[dict[str, str]]:
    """Return name, title, summary, licence and address of every benchmark, those of plug-ins included.

    Args:
        name: of one benchmark; then its options are returned: option, default, meaning.

    Raises:
        ConfigError: there is no such benchmark.
    """
    from fgray.benchmarks.base import BENCHMARKS

    if name is not None:
        return options_of(BENCHMARKS.get(name))
    infos = {name: BENCHMARKS.get(name).info for name in BENCHMARKS.names()}
    return [{"name": name, "title": i.title, "summary": i.summary, "licence": i.licence, "url": i.url} for name, i in infos.items()]


def list_models() -> list[dict[str, str]]:
    """Return kind and description of every kind of model."""
    from fgray.config.schema import MODEL_SECTIONS

    return [{"kind": kind, "summary": (section.__doc__ or "").splitlines()[0]} for kind, section in MODEL_SECTIONS.items()]


def list_metrics() -> list[dict[str, str]]:
    """Return name pattern and meaning of every metric."""
    from fgray.metrics.catalogue import METRICS

    return [{"name": name, "summary": summary} for name, summary in METRICS.items()]


def list_filters(name: str | None = None) -> list[dict[str, str]]:
    """Return name and meaning of every filter of mining, or the options of one: option, default, meaning.

    Raises:
        ConfigError: there is no such filter.
    """
    from fgray.mining.filters import FILTERS

    return _parts(FILTERS, name)


def list_generators(name: str | None = None) -> list[dict[str, str]]:
    """Return name and meaning of every generator of text negatives, or the options of one: option, default, meaning.

    Raises:
        ConfigError: there is no such generator.
    """
    from fgray.text_negatives.generator import GENERATORS

    return _parts(GENERATORS, name)


def list_losses(name: str | None = None) -> list[dict[str, str]]:
    """Return name and meaning of every loss, or the options of one: option, default, meaning.

    Raises:
        ConfigError: there is no such loss.
    """
    from fgray.losses.base import LOSSES

    return _parts(LOSSES, name)


def _parts(registry: Registry[Any], name: str | None) -> list[dict[str, str]]:
    if name is not None:
        return options_of(registry.get(name))
    return [{"name": name, "meaning": (registry.get(name).__doc__ or "").strip().splitlines()[0]} for name in registry.names()]
