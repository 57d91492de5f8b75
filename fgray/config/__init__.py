"""The configuration: schema, loading, overrides, fingerprint."""
