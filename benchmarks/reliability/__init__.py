"""Faults on purpose, counted: ``python -m benchmarks.reliability --help``."""
