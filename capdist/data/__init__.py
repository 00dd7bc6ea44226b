"""From shards to batches: the order of samples, and how they are read."""
