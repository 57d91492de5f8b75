"""Clusters: the files that describe them, their rules, and how they are brought up and reached."""
