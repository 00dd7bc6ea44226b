"""Shards on a server: downloads with retries, and a cache of copies on the node's own disk."""
