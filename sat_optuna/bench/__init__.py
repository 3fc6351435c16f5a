"""Benchmarks a user can run: ratios measured in one run, written as JSON."""
