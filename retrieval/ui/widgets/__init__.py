"""Components of our own."""
