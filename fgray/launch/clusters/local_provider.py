"""Ray's provider of nodes that are processes of one machine, with a folder of its own for each node's copy of a job's files."""

from __future__ import annotations

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class LocalNodeProvider(FakeMultiNodeProvider):
    """Starts nodes as Ray's does.

    By itself that gives all nodes of a cluster one folder, which each of them empties and fills when it starts, under the feet of the
    workers of the others.
    """

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        with self.lock:  # it may be entered again by its holder
            name = ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"{name}_{self._next_node_id}"  # the only way to say it
            try:
                super()._create_node_with_resources_and_labels(*arguments)  # type: ignore[no-untyped-call]
            finally:
                ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = name
