"""Distributed training of image captioning models on region features."""
