"""Sweeps: lists of configs that are trained and scored, and the table of their scores."""
