"""Fused steps on the GPU, each beside the plain torch that specifies it."""
