"""The configuration of a run: one typed, frozen tree, read from JSON."""
