"""From a model and images to captions."""
