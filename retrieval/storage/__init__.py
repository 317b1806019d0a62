"""What an index is on disk, and how it is opened."""
