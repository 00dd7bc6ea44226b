"""Benchmarks: each result is compared with a peer or a bound measured in the same run."""
