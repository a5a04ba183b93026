"""Benchmarks: each prints a table for people and `--json` for machines."""
