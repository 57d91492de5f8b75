"""Hits from scores, their sums per cluster, their values, intervals and tests."""
