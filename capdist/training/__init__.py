"""Stages, engines, checkpoints and runs."""
