"""Caption metrics, and the baseline that ignores the image."""
