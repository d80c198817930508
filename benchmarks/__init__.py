"""Benchmarks: `python -m benchmarks.<name>`; no part of the package."""
