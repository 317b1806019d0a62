"""Analyse rankings: comparison, evaluation, robustness, maps."""
