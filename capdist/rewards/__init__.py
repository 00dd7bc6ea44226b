"""Rewards of sampled captions: one file for each."""
