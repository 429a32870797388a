"""Benchmarks of hierarchical attention: see README.md, or ``python -m benchmarks.run --help``."""
