"""The shard format: tar streams of region features and everything that makes them."""
