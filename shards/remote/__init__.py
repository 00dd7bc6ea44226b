"""Shards on servers, and their copies on the node's disk."""
