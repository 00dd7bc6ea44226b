"""Networks of backbones whose packages have weights only; each is imported when it is opened."""
