"""Scoring and decoding in other processes: the only package that imports Ray."""
