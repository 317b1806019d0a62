"""Encoded images become upright RGB pictures."""
