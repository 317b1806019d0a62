"""Retrieve pictures from a gallery by a query picture: features x metric x engine."""
