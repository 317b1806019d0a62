"""Where a gallery's images come from."""
