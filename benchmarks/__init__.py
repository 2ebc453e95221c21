"""Benchmarks: each prints ratios measured against a baseline in the same run."""
