"""Galleries: where images come from."""
