"""Benchmarks: one file each. They list cases, metrics and facts, and never call a model."""
