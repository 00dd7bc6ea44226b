"""Models to captions."""
