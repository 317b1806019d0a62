"""What can be said of rankings: comparison, evaluation, robustness, maps."""
