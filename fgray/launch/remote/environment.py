"""Environment variables that travel with a job: those that its configuration names, and never a secret."""

from __future__ import annotations

import os
import re
from typing import Any

from fgray.config.source import variables
from fgray.errors import ConfigError

_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(ACCESS|API|AUTH)_?KEY|_KEY$|^KEY$|_PAT$", re.IGNORECASE)
_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def named_variables(source: Any, where: str) -> dict[str, str]:
    """Return the variables that a configuration names and that are set here; the others have defaults.

    Args:
        source: the configuration as written.
        where: its file, for messages.

    Raises:
        ConfigError: one of them looks like a secret: whoever may list the cluster's jobs would read it.
    """
    found = {name: os.environ[name] for name in sorted(variables(source)) if name in os.environ}
    for name, value in found.items():
        if _SECRET.search(name) or _WITH_PASSWORD.search(value):
            fix = (
                "give the nodes the right by their role, or set it in their own environment, and take ${"
                + name
                + "} out of the configuration"
            )
            raise ConfigError(
                f"{name} looks like a secret, and everybody who may list the cluster's jobs would read it", where=where, fix=fix
            )
    return found
