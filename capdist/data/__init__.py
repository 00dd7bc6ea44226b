"""Shards to batches: which sample comes when, and how it is read."""
