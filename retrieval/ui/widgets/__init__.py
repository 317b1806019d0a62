"""Components with their own scripts and styles."""
