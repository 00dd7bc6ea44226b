"""Fused GPU kernels, each with a reference implementation in plain torch."""
