"""Trained models in use: run folders, exported models, captions, evaluation."""
