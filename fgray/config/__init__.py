"""The configuration: schema, loading, overrides, fingerprint."""

from fgray.config.fingerprint import fingerprint
from fgray.config.loading import LoadedConfig, config_from_text, load_config

__all__ = ["LoadedConfig", "config_from_text", "fingerprint", "load_config"]
