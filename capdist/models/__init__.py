"""Captioning models: one readable file for each."""
