"""fgray evaluates CLIP-like models on fine-grained benchmarks, mines what they confuse, and trains them on it.

The verbs of the command line stand here as functions of the same names:

    import fgray

    config = fgray.load_config("configs/quickstart.yaml", ["limit=5"])
    print(fgray.plan(config).table())
    result = fgray.evaluate(config)

They are looked up when first used, so that ``import fgray`` stays fast (no torch, no ray).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "RemoteJob",
    "build_shards",
    "cluster_down",
    "cluster_manifest",
    "cluster_status",
    "cluster_up",
    "cluster_validate",
    "compare",
    "convert",
    "doctor",
    "evaluate",
    "explore",
    "export",
    "fetch_benchmark",
    "gc_store",
    "import_benchmark",
    "list_benchmarks",
    "list_filters",
    "list_generators",
    "list_jobs",
    "list_losses",
    "list_metrics",
    "list_models",
    "load_config",
    "loop",
    "make_text_negatives",
    "mine",
    "mine_distractors",
    "plan",
    "remote_job",
    "report",
    "resume",
    "schema",
    "score",
    "submit",
    "train",
    "verify_shards",
]

if TYPE_CHECKING:
    from fgray.verbs import (
        RemoteJob,
        build_shards,
        cluster_down,
        cluster_manifest,
        cluster_status,
        cluster_up,
        cluster_validate,
        compare,
        convert,
        doctor,
        evaluate,
        explore,
        export,
        fetch_benchmark,
        gc_store,
        import_benchmark,
        list_benchmarks,
        list_filters,
        list_generators,
        list_jobs,
        list_losses,
        list_metrics,
        list_models,
        load_config,
        loop,
        make_text_negatives,
        mine,
        mine_distractors,
        plan,
        remote_job,
        report,
        resume,
        schema,
        score,
        submit,
        train,
        verify_shards,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fgray' has no attribute '{name}'")
    from fgray import verbs

    return getattr(verbs, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing fgray.report.html would put the subpackage in the place of the verb of the same name.
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
