"""Micro-batches to an update of the weights: plain PyTorch, and DeepSpeed."""
